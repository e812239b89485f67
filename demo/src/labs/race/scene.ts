/** The 3-D picture: a relief, balls whose whole ways lie in one texture, trails. Loaded when it is first shown. */

import * as THREE from 'three'
import { eyePlace, solidOf, toScene, type Eye, type Solid } from './geometry'
import { parseColour } from './colours'
import { surfaceImage } from './flat'
import type { Palette } from './palette'
import { textureOf, type Paths } from './paths'
import type { Surface } from './race.svelte'
import { piecesOf } from './ribbons'
import * as shaders from './shaders'
import { Still } from './still'
import type { BasinGrid } from './terrain'
import { FEW } from './trails'

const TAIL_PIECES = 6
/** Pixels that the processor draws in good time. */
const MOST_SOFTWARE_PIXELS = 420_000
const LIFT = 0.006
const DISTANCE = 4.3

/** Whether this browser draws with the processor: then fewer pixels are drawn. */
function isSoftware(gl: WebGLRenderingContext | WebGL2RenderingContext): boolean {
  const info = gl.getExtension('WEBGL_debug_renderer_info')
  const name = info ? String(gl.getParameter(info.UNMASKED_RENDERER_WEBGL)) : ''
  return /swiftshader|llvmpipe|software|basic render/i.test(name)
}

/** Each entry of so many numbers, four times in a row. */
function fourTimes(numbers: Float32Array, size: number): Float32Array {
  const all = new Float32Array(4 * numbers.length)
  for (let at = 0; at < numbers.length; at += size) {
    const entry = numbers.subarray(at, at + size)
    for (let corner = 0; corner < 4; corner += 1) all.set(entry, 4 * at + corner * size)
  }
  return all
}

export class Scene {
  readonly #renderer: THREE.WebGLRenderer
  readonly #scene = new THREE.Scene()
  readonly #camera = new THREE.PerspectiveCamera(32, 1, 0.05, 30)
  readonly #software: boolean
  readonly #uniforms = {
    paths: { value: null as THREE.DataTexture | null },
    relief: { value: null as THREE.DataTexture | null },
    time: { value: 0 },
    every: { value: 1 },
    width: { value: 2 },
    ground: { value: new THREE.Vector2(1, 1) },
    tall: { value: 1 },
    tail: { value: 12 },
    size: { value: 8 },
    thick: { value: 1.4 },
    screen: { value: new THREE.Vector2(1, 1) },
    colours: { value: Array.from({ length: 6 }, () => new THREE.Color()) },
    rim: { value: new THREE.Color() },
  }
  #ground: THREE.Group | null = null
  #balls: THREE.Group | null = null
  #surface: Surface | null = null
  #solid: Solid = { x: 1, y: 1, height: 0.72 }
  #size: [number, number] = [1, 1]
  #ratio = 1
  /** Where the processor draws, the ground is kept until it changes. */
  #still: Still | null = null
  #runs = 0

  constructor(canvas: HTMLCanvasElement) {
    const probe = document.createElement('canvas').getContext('webgl2')
    if (!probe) throw new Error('no WebGL 2')
    this.#software = isSoftware(probe)
    probe.getExtension('WEBGL_lose_context')?.loseContext()
    this.#renderer = new THREE.WebGLRenderer({
      canvas,
      alpha: false,
      antialias: !this.#software,
      powerPreference: 'high-performance',
    })
    this.#camera.up.set(0, 0, 1)
    if (this.#software) this.#still = new Still(this.#renderer)
  }

  resize(width: number, height: number): void {
    this.#size = [width, height]
    this.#ratio = this.#software
      ? Math.min(1, Math.sqrt(MOST_SOFTWARE_PIXELS / (width * height)))
      : Math.min(devicePixelRatio, 2)
    this.#renderer.setPixelRatio(this.#ratio)
    this.#renderer.setSize(width, height, false)
    this.#still?.resize(Math.floor(width * this.#ratio), Math.floor(height * this.#ratio))
    this.#camera.aspect = width / height
    // A narrow picture is looked at from farther away, so that the whole ground is seen.
    this.#camera.fov = width / height >= 1.25 ? 32 : Math.min(60, 32 * (1.25 / (width / height)))
    this.#camera.updateProjectionMatrix()
    this.#uniforms.screen.value.set(width / 2, height / 2)
  }

  /** The relief and its skin. */
  setSurface(surface: Surface, palette: Palette, basins: BasinGrid | null): void {
    this.#drop(this.#ground)
    const [red, green, blue] = parseColour(palette.background)
    const space = this.#still ? THREE.LinearSRGBColorSpace : THREE.SRGBColorSpace
    this.#renderer.setClearColor(new THREE.Color().setRGB(red / 255, green / 255, blue / 255, space))
    this.#surface = surface
    this.#solid = solidOf(surface.x, surface.y)
    const { relief } = surface
    this.#uniforms.ground.value.set(this.#solid.x, this.#solid.y)
    this.#uniforms.tall.value = this.#solid.height
    this.#uniforms.relief.value?.dispose()
    const heights = Float32Array.from(relief.heights, (height) => (Number.isNaN(height) ? -1 : height))
    const texture = new THREE.DataTexture(heights, relief.columns, relief.rows, THREE.RedFormat, THREE.FloatType)
    texture.needsUpdate = true
    this.#uniforms.relief.value = texture

    const group = new THREE.Group()
    const skin = new THREE.CanvasTexture(surfaceImage(surface, palette, basins, this.#solid.x / this.#solid.y))
    // What is kept goes to the screen as it is.
    skin.colorSpace = this.#still ? THREE.NoColorSpace : THREE.SRGBColorSpace
    skin.anisotropy = this.#software ? 1 : 8
    skin.generateMipmaps = !this.#software
    if (this.#software) skin.minFilter = THREE.LinearFilter
    const material = new THREE.MeshBasicMaterial({
      map: skin,
      side: THREE.DoubleSide,
      polygonOffset: true,
      polygonOffsetFactor: 1,
      polygonOffsetUnits: 1,
    })
    group.add(new THREE.Mesh(this.#reliefGeometry(surface), material))
    group.add(this.#walls(surface, palette))
    this.#ground = group
    this.#still?.changed()
    this.#scene.add(group)
  }

  #reliefGeometry(surface: Surface): THREE.BufferGeometry {
    const { columns, rows, heights } = surface.relief
    const { x, y, height } = this.#solid
    const position = new Float32Array(3 * columns * rows)
    const uv = new Float32Array(2 * columns * rows)
    for (let j = 0; j < rows; j += 1) {
      for (let i = 0; i < columns; i += 1) {
        const at = j * columns + i
        const [u, v] = [i / (columns - 1), j / (rows - 1)]
        const high = heights[at]!
        position.set([x * (2 * u - 1), y * (2 * v - 1), (Number.isNaN(high) ? 0 : Math.min(high, 1)) * height], 3 * at)
        uv.set([u, v], 2 * at)
      }
    }
    const index: number[] = []
    for (let j = 0; j + 1 < rows; j += 1) {
      for (let i = 0; i + 1 < columns; i += 1) {
        const a = j * columns + i
        const corners = [a, a + 1, a + columns + 1, a + columns]
        if (corners.some((corner) => Number.isNaN(heights[corner]!))) continue
        index.push(corners[0]!, corners[1]!, corners[2]!, corners[0]!, corners[2]!, corners[3]!)
      }
    }
    const geometry = new THREE.BufferGeometry()
    geometry.setAttribute('position', new THREE.BufferAttribute(position, 3))
    geometry.setAttribute('uv', new THREE.BufferAttribute(uv, 2))
    geometry.setIndex(index)
    return geometry
  }

  /** Sides of the block, so that the relief stands on something. */
  #walls(surface: Surface, palette: Palette): THREE.Mesh {
    const { columns, rows, heights } = surface.relief
    const { x, y, height } = this.#solid
    const position: number[] = []
    const index: number[] = []
    const edges: [number, number][][] = [
      Array.from({ length: columns }, (_, i) => [i, 0]),
      Array.from({ length: columns }, (_, i) => [i, rows - 1]),
      Array.from({ length: rows }, (_, j) => [0, j]),
      Array.from({ length: rows }, (_, j) => [columns - 1, j]),
    ]
    for (const edge of edges) {
      edge.forEach(([i, j], place) => {
        const high = heights[j * columns + i]!
        const [px, py] = [x * ((2 * i) / (columns - 1) - 1), y * ((2 * j) / (rows - 1) - 1)]
        const base = position.length / 3
        position.push(px, py, (Number.isNaN(high) ? 0 : Math.min(high, 1)) * height, px, py, -0.06)
        if (place > 0) index.push(base - 2, base - 1, base, base, base - 1, base + 1)
      })
    }
    const geometry = new THREE.BufferGeometry()
    geometry.setAttribute('position', new THREE.Float32BufferAttribute(position, 3))
    geometry.setIndex(index)
    const [red, green, blue] = palette.dark ? [34, 43, 56] : [207, 214, 223]
    const space = this.#still ? THREE.LinearSRGBColorSpace : THREE.SRGBColorSpace
    const colour = new THREE.Color().setRGB(red! / 255, green! / 255, blue! / 255, space)
    return new THREE.Mesh(geometry, new THREE.MeshBasicMaterial({ color: colour, side: THREE.DoubleSide }))
  }

  /** Balls and their trails; whole ways go to the graphics card once. */
  setPaths(paths: Paths, palette: Palette, trails: boolean): void {
    this.#drop(this.#balls)
    this.#balls = null
    const surface = this.#surface
    if (!surface) return
    const place = (x: number, y: number): [number, number] => toScene(this.#solid, surface.x, surface.y, x, y)
    const texture = new THREE.DataTexture(
      textureOf(paths, place, surface.heights.of),
      paths.width,
      paths.runs,
      THREE.RGBAFormat,
      THREE.FloatType,
    )
    texture.needsUpdate = true
    this.#uniforms.paths.value?.dispose()
    this.#uniforms.paths.value = texture
    this.#uniforms.every.value = paths.every
    this.#uniforms.width.value = paths.width
    this.#uniforms.tail.value = Math.max(8, 5 * paths.every)
    this.#runs = paths.runs
    palette.optimizersRGB.forEach(([r, g, b], index) =>
      this.#uniforms.colours.value[index]!.setRGB(r / 255, g / 255, b / 255, THREE.SRGBColorSpace),
    )
    this.#uniforms.rim.value.set(palette.dark ? '#0f131a' : '#ffffff')

    const group = new THREE.Group()
    if (trails) group.add(paths.runs <= FEW ? this.#trails(paths, surface, place) : this.#tails(paths))
    const balls = new THREE.BufferGeometry()
    const runs = Float32Array.from({ length: paths.runs }, (_, run) => run)
    balls.setAttribute('run', new THREE.BufferAttribute(runs, 1))
    balls.setAttribute('optimizer', new THREE.BufferAttribute(Float32Array.from(paths.optimizer), 1))
    balls.setDrawRange(0, paths.runs)
    group.add(this.#unculled(new THREE.Points(balls, this.#material(shaders.BALL_VERTEX, shaders.BALL_FRAGMENT))))
    this.#balls = group
    this.#scene.add(group)
  }

  #trails(paths: Paths, surface: Surface, place: (x: number, y: number) => [number, number]): THREE.Object3D {
    const pieces = piecesOf(paths, surface.grid, {
      place,
      height: surface.heights.of,
      tall: this.#solid.height,
      lift: LIFT,
    })
    // Four corners for each piece: drawing instances is slow where the processor draws.
    const geometry = new THREE.BufferGeometry()
    const { count } = pieces
    const side = new Float32Array(8 * count)
    const index = new Uint32Array(6 * count)
    for (let piece = 0; piece < count; piece += 1) {
      side.set([0, -1, 1, -1, 1, 1, 0, 1], 8 * piece)
      index.set([0, 1, 2, 0, 2, 3].map((corner) => 4 * piece + corner), 6 * piece)
    }
    geometry.setAttribute('side', new THREE.BufferAttribute(side, 2))
    geometry.setIndex(new THREE.BufferAttribute(index, 1))
    geometry.setAttribute('from', new THREE.BufferAttribute(fourTimes(pieces.from, 4), 4))
    geometry.setAttribute('to', new THREE.BufferAttribute(fourTimes(pieces.to, 4), 4))
    geometry.setAttribute('optimizer', new THREE.BufferAttribute(fourTimes(pieces.optimizer, 1), 1))
    geometry.setAttribute('along', new THREE.BufferAttribute(fourTimes(pieces.along, 1), 1))
    const material = this.#material(shaders.TRAIL_VERTEX, shaders.TRAIL_FRAGMENT)
    material.side = THREE.DoubleSide
    return this.#unculled(new THREE.Mesh(geometry, material))
  }

  #tails(paths: Paths): THREE.Object3D {
    const count = paths.runs * TAIL_PIECES * 2
    const run = new Float32Array(count)
    const optimizer = new Float32Array(count)
    const back = new Float32Array(count)
    for (let at = 0; at < count; at += 1) {
      const piece = Math.floor(at / 2) % TAIL_PIECES
      run[at] = Math.floor(at / (2 * TAIL_PIECES))
      optimizer[at] = paths.optimizer[run[at]!]!
      back[at] = (piece + (at % 2)) / TAIL_PIECES
    }
    const geometry = new THREE.BufferGeometry()
    geometry.setAttribute('run', new THREE.BufferAttribute(run, 1))
    geometry.setAttribute('optimizer', new THREE.BufferAttribute(optimizer, 1))
    geometry.setAttribute('back', new THREE.BufferAttribute(back, 1))
    geometry.setDrawRange(0, count)
    const material = this.#material(shaders.TAIL_VERTEX, shaders.TAIL_FRAGMENT)
    material.transparent = true
    material.depthWrite = false
    return this.#unculled(new THREE.LineSegments(geometry, material))
  }

  #material(vertexShader: string, fragmentShader: string): THREE.ShaderMaterial {
    return new THREE.ShaderMaterial({
      uniforms: this.#uniforms,
      vertexShader,
      fragmentShader,
      glslVersion: THREE.GLSL3,
    })
  }

  #unculled<T extends THREE.Object3D>(object: T): T {
    object.frustumCulled = false
    return object
  }

  render(time: number, eye: Eye): void {
    this.#uniforms.time.value = time
    this.#uniforms.size.value = this.#ratio * (this.#runs > 600 ? 6 : this.#runs > 60 ? 9 : 17)
    const [x, y, z] = eyePlace(eye, DISTANCE)
    const middle = this.#solid.height * 0.3
    this.#camera.position.set(x, y, z + middle)
    this.#camera.lookAt(0, 0, middle)
    if (this.#still && this.#ground) {
      this.#still.keep(this.#scene, this.#camera, this.#ground, this.#balls, eye.join())
    }
    this.#renderer.render(this.#scene, this.#camera)
  }

  /** Where a place of the domain is on the screen. */
  project(x: number, y: number, value: number): [number, number] | null {
    const surface = this.#surface
    if (!surface) return null
    const [sx, sy] = toScene(this.#solid, surface.x, surface.y, x, y)
    if (Math.abs(sx) > this.#solid.x * 1.0001 || Math.abs(sy) > this.#solid.y * 1.0001) return null
    return this.projectScene(sx, sy, surface.heights.of(value) * this.#solid.height)
  }

  projectScene(sx: number, sy: number, sz: number): [number, number] | null {
    const at = new THREE.Vector3(sx, sy, Number.isNaN(sz) ? 0 : sz).project(this.#camera)
    if (at.z > 1) return null
    return [((at.x + 1) / 2) * this.#size[0], ((1 - at.y) / 2) * this.#size[1]]
  }

  get solid(): Solid {
    return this.#solid
  }

  /** The place of the ground that a pixel shows, in the scene. */
  pick(px: number, py: number): [number, number] | null {
    const mesh = this.#ground?.children[0]
    if (!mesh) return null
    const ray = new THREE.Raycaster()
    ray.setFromCamera(new THREE.Vector2((px / this.#size[0]) * 2 - 1, 1 - (py / this.#size[1]) * 2), this.#camera)
    const hit = ray.intersectObject(mesh, false)[0]
    return hit ? [hit.point.x, hit.point.y] : null
  }

  #drop(group: THREE.Group | null): void {
    if (!group) return
    this.#scene.remove(group)
    group.traverse((object) => {
      if (!(object instanceof THREE.Mesh || object instanceof THREE.Points || object instanceof THREE.LineSegments))
        return
      object.geometry.dispose()
      const material = object.material as THREE.Material & { map?: THREE.Texture | null }
      material.map?.dispose()
      material.dispose()
    })
  }

  dispose(): void {
    this.#drop(this.#ground)
    this.#drop(this.#balls)
    this.#uniforms.paths.value?.dispose()
    this.#uniforms.relief.value?.dispose()
    this.#still?.dispose()
    this.#renderer.dispose()
    this.#renderer.forceContextLoss()
  }
}
