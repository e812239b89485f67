/** The ground of the 3-D picture with its depth, drawn once and laid down in each frame until it or the eye changes. */

import * as THREE from 'three'

export class Still {
  readonly #renderer: THREE.WebGLRenderer
  readonly #target = new THREE.WebGLRenderTarget(1, 1, {
    depthTexture: new THREE.DepthTexture(1, 1),
    minFilter: THREE.NearestFilter,
    magFilter: THREE.NearestFilter,
  })
  readonly #sheet: THREE.Mesh
  #key = ''

  constructor(renderer: THREE.WebGLRenderer) {
    this.#renderer = renderer
    this.#sheet = new THREE.Mesh(
      new THREE.PlaneGeometry(2, 2),
      new THREE.ShaderMaterial({
        glslVersion: THREE.GLSL3,
        depthFunc: THREE.AlwaysDepth,
        uniforms: { image: { value: this.#target.texture }, depth: { value: this.#target.depthTexture } },
        vertexShader: 'out vec2 at; void main() { at = uv; gl_Position = vec4(position.xy, 0.0, 1.0); }',
        fragmentShader: `
          uniform sampler2D image;
          uniform highp sampler2D depth;
          in vec2 at;
          out vec4 painted;
          void main() {
            ivec2 pixel = ivec2(gl_FragCoord.xy);
            painted = texelFetch(image, pixel, 0);
            gl_FragDepth = texelFetch(depth, pixel, 0).r;
          }`,
      }),
    )
    this.#sheet.frustumCulled = false
    this.#sheet.renderOrder = -1
  }

  resize(width: number, height: number): void {
    this.#target.setSize(width, height)
    this.changed()
  }

  changed(): void {
    this.#key = ''
  }

  /** Have the ground ready for this eye, and the scene show it in place of the ground itself. */
  keep(scene: THREE.Scene, camera: THREE.Camera, ground: THREE.Object3D, balls: THREE.Object3D | null, eye: string): void {
    if (this.#sheet.parent !== scene) scene.add(this.#sheet)
    if (eye !== this.#key) {
      this.#sheet.visible = false
      ground.visible = true
      if (balls) balls.visible = false
      this.#renderer.setRenderTarget(this.#target)
      this.#renderer.render(scene, camera)
      this.#renderer.setRenderTarget(null)
      this.#key = eye
    }
    this.#sheet.visible = true
    ground.visible = false
    if (balls) balls.visible = true
  }

  dispose(): void {
    this.#sheet.geometry.dispose()
    ;(this.#sheet.material as THREE.Material).dispose()
    this.#target.dispose()
  }
}
