import { beforeEach, expect, it, vi } from 'vitest'
import { Training, type TrainingStep } from './training.svelte'

let frame: (() => void) | undefined
beforeEach(() => {
  frame = undefined
  vi.stubGlobal('requestAnimationFrame', (next: () => void) => {
    frame = next
    return 1
  })
  vi.stubGlobal('cancelAnimationFrame', () => (frame = undefined))
})

const record = (step: number): TrainingStep => ({ step, epoch: 1, loss: 1 / step, learning_rate: 0.1, gradient_norm: 1, gradients: {}, updates: {}, parameters: {}, state: {} })
function made(steps: number[], most = Infinity): Training {
  const training = new Training()
  training.clear(most)
  training.begin()
  for (const step of steps) training.take(record(step))
  frame?.()
  return training
}

it('names its records by their steps and finds them', () => {
  const training = made([1, 31, 61, 80])
  expect([0, 1, 2, 4].map((at) => training.number(at))).toEqual([0, 1, 31, 80])
  expect([0, 1, 30, 31, 79.5, 80, 900].map((step) => training.placeOf(step))).toEqual([0, 1, 1, 2, 3, 4, 4])
})

it('tells the loss at the parameters of a record only where the next step was recorded', () => {
  const training = made([1, 2, 32])
  expect([training.lossAt(0), training.lossAt(1), training.lossAt(2)]).toEqual([1, 1 / 2, undefined])
  training.take({ status: 'completed', reason: '', steps_done: 32, loss: 7, parameters: {} } as never)
  training.done()
  expect(training.lossAt(3)).toBe(7)
})

it('shows the newest record until somebody goes elsewhere, and again at the end', () => {
  const training = made([])
  training.following = true
  const arrive = (step: number): number => {
    training.take(record(step))
    frame?.()
    return training.at
  }
  expect([arrive(1), arrive(2), training.moving]).toEqual([1, 2, true])
  training.back()
  expect([training.at, arrive(3), training.moving]).toEqual([1, 1, false])
  training.end()
  expect([training.at, arrive(4)]).toEqual([3, 4])
  training.done()
  expect([training.at, training.moving, training.open]).toEqual([4, false, false])
})

it('stays at its step when records are left out', () => {
  const training = made([1, 2, 3, 4, 5, 6, 7, 8], 8)
  training.seek(5)
  for (let step = 9; step <= 12; step += 1) training.take(record(step))
  frame?.()
  expect(training.steps.map((each) => each.step)).toEqual([1, 3, 5, 7, 9, 11, 12])
  expect([training.at, training.number(training.at)]).toEqual([3, 5])
})
