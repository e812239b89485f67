import { svelte } from '@sveltejs/vite-plugin-svelte'
import { defineConfig, type Plugin } from 'vite'

/** KaTeX names each font in three formats; every browser that runs the page reads woff2. */
function onlyWoff2(): Plugin {
  return {
    name: 'only-woff2',
    enforce: 'pre',
    transform(code, id) {
      if (!id.includes('katex') || !id.endsWith('.css')) return null
      return code.replace(/,\s*url\([^)]*\.(woff|ttf)\)\s*format\(["'](woff|truetype)["']\)/g, '')
    },
  }
}

export default defineConfig({
  base: './',
  plugins: [onlyWoff2(), svelte()],
  build: {
    outDir: '../service/demo',
    emptyOutDir: true,
    assetsInlineLimit: 0,
    manifest: 'manifest.json',
    license: { fileName: 'licenses.md' },
    target: 'es2022',
    chunkSizeWarningLimit: 1000,
  },
  server: { proxy: { '/v1': process.env['NABLA'] ?? 'http://127.0.0.1:8000' } },
  test: { include: ['src/**/*.test.ts'] },
} as Parameters<typeof defineConfig>[0])
