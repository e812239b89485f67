import { describe, expect, it } from 'vitest'
import { read, write, type State } from '../../stage/links'
import { CHECKS, DEFAULTS, fits, networkOf, problemOf, requestOf, trainingOf, weightsOf, withData, withOption, type Definition } from './definition'
import { addressOf, entriesOf, isTree, largest, parseAddress, valueAt, withValue } from './parameters'

const problem = (definition: Definition) => problemOf(definition)!

describe('requests', () => {
  it('asks at first for the first pattern of XOR with the weights of the worked example', () => {
    const task = problem(DEFAULTS)
    expect(requestOf(DEFAULTS, task, weightsOf(DEFAULTS, task.inputs))).toEqual({
      network: {
        layers: [
          { type: 'dense', name: 'hidden', units: 2, activation: 'sigmoid' },
          { type: 'dense', name: 'output', units: 1, activation: 'sigmoid' },
        ],
      },
      parameters: {
        hidden: {
          kernel: [[-0.06782947598673161, 0.9487814395569221], [0.22341077197888182, 0.461587116462548]],
          bias: [-0.4635107399577998, 0.09750161997450091],
        },
        output: { kernel: [[-0.22791948943117624], [0.581714099641357]], bias: [0.7792991203673414] },
      },
      inputs: [[1, 0]],
      targets: [[1]],
      loss: 'half_squared_error',
      reduction: 'sum',
    })
  })

  it('trains on all samples, whichever is looked at, and keeps some for validation', () => {
    const definition = { ...withData(DEFAULTS, 'moons'), sample: 2, batch: 1 }
    const request = trainingOf(definition, problem(definition), null)
    expect(request).toMatchObject({ steps: 500, batch_size: 1, shuffle: false, seed: 0, optimizer: { type: 'adam', learning_rate: 0.03 } })
    expect(request.inputs).toHaveLength(46)
    expect((request.validation as { inputs: unknown[] }).inputs).toHaveLength(14)
    expect(request).not.toHaveProperty('parameters')
  })

  it('lets the service draw weights that no preset has', () => {
    const wider: Definition = { ...DEFAULTS, layers: [{ units: 3, activation: { type: 'tanh' } }, DEFAULTS.layers[1]!] }
    expect(weightsOf(wider, 2)).toBeNull()
    expect(requestOf(wider, problem(wider), null)).toMatchObject({ seed: 0 })
    expect(weightsOf({ ...DEFAULTS, initializer: { type: 'zeros' } }, 2)).toBeNull()
    expect(networkOf({ ...DEFAULTS, initializer: { type: 'zeros' } })).toMatchObject({ layers: [{ kernel_initializer: 'zeros' }, {}] })
  })

  it('writes targets as the loss takes them', () => {
    const three = { ...DEFAULTS, data: 'own' as const, own: '0,0,0\n1,1,2\n2,2,1', holdout: 0, sample: -1 }
    const targets = (loss: string, units: number): unknown => {
      const definition: Definition = { ...three, loss: { type: loss }, layers: [{ units, activation: { type: 'linear' } }] }
      return requestOf(definition, problem(definition), null).targets
    }
    expect(targets('sparse_categorical_crossentropy', 3)).toEqual([0, 2, 1])
    expect(targets('categorical_crossentropy', 3)).toEqual([[1, 0, 0], [0, 0, 1], [0, 1, 0]])
    expect(targets('hinge', 1)).toEqual([[-1], [1], [1]])
    expect(targets('squared_error', 1)).toEqual([[0], [2], [1]])
  })
})

describe('links', () => {
  const back = (state: Partial<Definition>) =>
    read(write('backprop', { ...DEFAULTS, ...state } as State, DEFAULTS as State).split('/')[1] ?? '', DEFAULTS as never, CHECKS as never)

  it('holds edited weights to the last digit', () => {
    const weights = withValue(weightsOf(DEFAULTS, 2)!, 'hidden.kernel[1][0]', 0.1 + 0.2)
    const { state, faults } = back({ weights, sample: -1, optimizer: withOption(DEFAULTS.optimizer, 'momentum', 0.5) as Definition['optimizer'] })
    expect(faults).toEqual([])
    expect(state).toEqual({ ...DEFAULTS, weights, sample: -1, optimizer: { type: 'momentum', learning_rate: 0.7, momentum: 0.5 } })
  })

  it('refuses what is no definition, and keeps the defaults', () => {
    const bad = { data: 'mnist', layers: [{ units: 99, activation: { type: 'relu' } }], weights: { hidden: { kernel: ['x'] } }, sample: -7, batch: 0.5 }
    const { state, faults } = back(bad as never)
    expect(state).toEqual(DEFAULTS)
    expect(faults).toHaveLength(5)
  })
})

describe('parameters', () => {
  const tree = { a: { kernel: [[1, -5], [2, 3]], bias: [0] } }

  it('names every number as the service does', () => {
    expect(entriesOf(tree).map((entry) => entry.address)).toEqual(['a.kernel[0][0]', 'a.kernel[0][1]', 'a.kernel[1][0]', 'a.kernel[1][1]', 'a.bias[0]'])
    expect(addressOf('a', 'kernel', [1, 0])).toBe('a.kernel[1][0]')
    expect(parseAddress('a.kernel[1][0]')).toEqual({ layer: 'a', parameter: 'kernel', index: [1, 0] })
    expect(parseAddress('a.kernel[x]')).toBeNull()
  })

  it('changes one number and leaves the given tree as it was', () => {
    expect(valueAt(withValue(tree, 'a.kernel[1][0]', 7), 'a.kernel[1][0]')).toBe(7)
    expect(valueAt(tree, 'a.kernel[1][0]')).toBe(2)
    expect(withValue(tree, 'a.kernel[9][0]', 7)).toBe(tree)
    expect(valueAt(tree, 'b.kernel[0][0]')).toBeUndefined()
  })

  it('reads null as not a number', () => {
    expect(valueAt({ a: { bias: [null as never] } }, 'a.bias[0]')).toBeNaN()
    expect(largest({ a: { bias: [null as never, -2, 1] } })).toBe(2)
    expect(isTree({ a: { bias: [null] } })).toBe(false)
  })

  it('knows whether weights fit a network', () => {
    expect(fits(weightsOf(DEFAULTS, 2)!, DEFAULTS, 2)).toBe(true)
    expect(fits(weightsOf(DEFAULTS, 2)!, DEFAULTS, 3)).toBe(false)
    expect(fits(tree, DEFAULTS, 2)).toBe(false)
  })
})
