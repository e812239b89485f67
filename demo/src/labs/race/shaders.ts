/**
 * Programs of the 3-D picture. Whole ways lie in one float texture, a row for each run: x, y, height, time. A frame sets
 * the time and nothing else.
 */

const PLACE = /* glsl */ `
precision highp float;
precision highp sampler2D;
uniform sampler2D paths;
uniform sampler2D relief;
uniform float time;
uniform float every;
uniform float width;
uniform vec2 ground;
uniform float tall;

vec4 entry(float run, float index) { return texelFetch(paths, ivec2(int(index), int(run)), 0); }

/* Height of the ground, so that a way never leads below it. */
float groundAt(vec2 p) {
  ivec2 size = textureSize(relief, 0);
  vec2 at = (p / ground * 0.5 + 0.5) * vec2(size - 1);
  if (any(lessThan(at, vec2(0.0))) || any(greaterThan(at, vec2(size - 1)))) return -1.0;
  ivec2 low = min(ivec2(floor(at)), size - 2);
  vec2 part = at - vec2(low);
  float a = texelFetch(relief, low, 0).r;
  float b = texelFetch(relief, low + ivec2(1, 0), 0).r;
  float c = texelFetch(relief, low + ivec2(0, 1), 0).r;
  float d = texelFetch(relief, low + ivec2(1, 1), 0).r;
  return mix(mix(a, b, part.x), mix(c, d, part.x), part.y);
}

vec3 placeAt(float run, float when) {
  float index = clamp(floor(when / every), 0.0, width - 2.0);
  vec4 a = entry(run, index);
  vec4 b = entry(run, index + 1.0);
  float part = b.w > a.w ? clamp((when - a.w) / (b.w - a.w), 0.0, 1.0) : 0.0;
  vec3 p = mix(a.xyz, b.xyz, part);
  p.z = max(p.z, groundAt(p.xy)) * tall;
  return p;
}

bool outside(vec3 p) { return any(greaterThan(abs(p.xy), ground * 1.001)); }
`

export const BALL_VERTEX = /* glsl */ `
${PLACE}
in float run;
in float optimizer;
uniform float size;
uniform vec3 colours[6];
out vec3 colour;
flat out int marker;

void main() {
  vec3 p = placeAt(run, time);
  colour = colours[int(optimizer)];
  marker = int(optimizer);
  gl_Position = projectionMatrix * modelViewMatrix * vec4(p + vec3(0.0, 0.0, 0.012), 1.0);
  gl_Position.z -= 0.02 * gl_Position.w / max(gl_Position.w, 1.0);
  gl_PointSize = outside(p) ? 0.0 : size;
  if (outside(p)) gl_Position = vec4(2.0, 2.0, 2.0, 1.0);
}
`

/** The markers of \`colours.ts\` as distances: circle, square, triangle, diamond, cross, plus. */
export const BALL_FRAGMENT = /* glsl */ `
precision highp float;
in vec3 colour;
flat in int marker;
uniform vec3 rim;
uniform float size;
out vec4 painted;

float bars(vec2 p) {
  vec2 q = abs(p);
  return max(min(q.x, q.y) - 0.34, max(q.x, q.y) - 1.0);
}

void main() {
  vec2 p = (gl_PointCoord * 2.0 - 1.0) * 1.25;
  float d;
  if (marker == 0) d = length(p) - 0.92;
  else if (marker == 1) d = max(abs(p.x), abs(p.y)) - 0.82;
  else if (marker == 2) d = max(p.y - 0.75, (abs(p.x) * 1.75 - p.y) * 0.5 - 0.52);
  else if (marker == 3) d = (abs(p.x) * 1.12 + abs(p.y)) * 0.75 - 0.8;
  else if (marker == 4) d = bars(mat2(0.7071, -0.7071, 0.7071, 0.7071) * p);
  else d = bars(p);
  if (d > 0.12) discard;
  painted = vec4(d > -0.14 && size > 11.0 ? rim : colour, 1.0);
  painted = linearToOutputTexel(painted);
}
`

/** Tails of many balls: a few pieces behind each. */
export const TAIL_VERTEX = /* glsl */ `
${PLACE}
in float run;
in float optimizer;
in float back;
uniform float tail;
uniform vec3 colours[6];
out vec3 colour;
out float fade;
out float gone;

void main() {
  float when = max(0.0, time - back * tail);
  vec3 p = placeAt(run, when);
  colour = colours[int(optimizer)];
  fade = 1.0 - back;
  gone = outside(p) ? 1.0 : 0.0;
  gl_Position = projectionMatrix * modelViewMatrix * vec4(p + vec3(0.0, 0.0, 0.008), 1.0);
  gl_Position.z -= 0.012;
}
`

export const TAIL_FRAGMENT = /* glsl */ `
precision highp float;
in vec3 colour;
in float fade;
in float gone;
out vec4 painted;

void main() {
  if (gone > 0.0) discard;
  painted = vec4(colour, fade * 0.8);
  painted = linearToOutputTexel(painted);
}
`

/** Trails of few balls: bands of even width on the screen, up to the present time. */
export const TRAIL_VERTEX = /* glsl */ `
precision highp float;
in vec4 from;
in vec4 to;
in vec2 side;
in float along;
in float optimizer;
uniform float time;
uniform vec2 screen;
uniform float thick;
uniform vec3 colours[6];
out vec3 colour;
out float way;
flat out int dash;
out vec3 here;

void main() {
  float span = to.w - from.w;
  float part = span > 0.0 ? clamp((time - from.w) / span, 0.0, 1.0) : (time >= to.w ? 1.0 : 0.0);
  vec3 end = mix(from.xyz, to.xyz, part);
  vec4 a = projectionMatrix * modelViewMatrix * vec4(from.xyz, 1.0);
  vec4 b = projectionMatrix * modelViewMatrix * vec4(end, 1.0);
  vec2 ahead = (b.xy / b.w - a.xy / a.w) * screen;
  vec2 across = length(ahead) > 1e-4 ? normalize(vec2(-ahead.y, ahead.x)) : vec2(0.0);
  vec4 p = side.x < 0.5 ? a : b;
  p.xy += across * side.y * thick / screen * p.w;
  p.z -= 0.014;
  gl_Position = time < from.w ? vec4(2.0, 2.0, 2.0, 1.0) : p;
  colour = colours[int(optimizer)];
  dash = int(optimizer);
  way = along + (side.x < 0.5 ? 0.0 : length(end - from.xyz));
  here = side.x < 0.5 ? from.xyz : end;
}
`

export const TRAIL_FRAGMENT = /* glsl */ `
precision highp float;
in vec3 colour;
in float way;
flat in int dash;
in vec3 here;
uniform vec2 ground;
out vec4 painted;

void main() {
  if (any(greaterThan(abs(here.xy), ground * 1.001))) discard;
  float p = way * 70.0;
  if (dash == 1 && mod(p, 3.2) > 2.2) discard;
  if (dash == 2 && mod(p, 1.6) > 0.8) discard;
  if (dash == 3 && mod(p, 5.0) > 2.6 && abs(mod(p, 5.0) - 3.8) > 0.4) discard;
  if (dash == 4 && mod(p, 3.0) > 1.5) discard;
  if (dash == 5 && mod(p, 1.0) > 0.4) discard;
  painted = vec4(colour, 1.0);
  painted = linearToOutputTexel(painted);
}
`
