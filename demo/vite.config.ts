import { gzipSync } from 'node:zlib'
import { svelte } from '@sveltejs/vite-plugin-svelte'
import { defineConfig, type Plugin, type Rolldown } from 'vite'

const LIMIT = 60_000

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

/** Puts a compressed copy beside each file that gains by it, and says how much script comes before the first paint. */
function compressed(): Plugin {
  return {
    name: 'compressed',
    apply: 'build',
    enforce: 'post',
    generateBundle: {
      order: 'post',
      handler(_, bundle) {
        const sizes = new Map<string, number>()
        for (const file of Object.values(bundle)) {
          if (!/\.(js|css|svg|json|txt)$/.test(file.fileName)) continue
          const content = file.type === 'chunk' ? file.code : file.source
          const smaller = gzipSync(content, { level: 9 })
          sizes.set(file.fileName, smaller.length)
          if (smaller.length < 0.9 * Buffer.byteLength(content) && file.fileName.startsWith('assets/')) {
            this.emitFile({ type: 'asset', fileName: `${file.fileName}.gz`, source: smaller })
          }
        }
        const first = beforePaint(bundle)
        const total = first.reduce((sum, name) => sum + (sizes.get(name) ?? 0), 0)
        console.log(`\nFirst paint: ${(total / 1000).toFixed(1)} kB of compressed script in ${first.length} files.`)
        if (total > LIMIT) this.error(`More than ${LIMIT / 1000} kB of script come before the first paint: ${first.join(', ')}`)
      },
    },
  }
}

/** The scripts that the page waits for: those of its entry, and the larger file of texts. */
function beforePaint(bundle: Rolldown.OutputBundle): string[] {
  const names = new Set<string>()
  const visit = (name: string): void => {
    const file = bundle[name]
    if (file?.type !== 'chunk' || names.has(name)) return
    names.add(name)
    file.imports.forEach(visit)
  }
  const chunks = Object.values(bundle).filter((file) => file.type === 'chunk')
  chunks.filter((chunk) => chunk.isEntry).forEach((chunk) => visit(chunk.fileName))
  const texts = chunks.filter((chunk) => chunk.facadeModuleId?.includes('/texts/'))
  texts.sort((a, b) => b.code.length - a.code.length)
  if (texts[0]) visit(texts[0].fileName)
  return [...names]
}

export default defineConfig({
  base: './',
  plugins: [onlyWoff2(), svelte(), compressed()],
  build: {
    outDir: process.env['NABLA_DEMO_OUT'] ?? '../service/demo',
    emptyOutDir: true,
    assetsInlineLimit: 0,
    manifest: 'manifest.json',
    license: { fileName: 'assets/licenses.txt' },
    target: 'es2022',
    reportCompressedSize: false,
    chunkSizeWarningLimit: 1000,
  },
  server: { proxy: { '/v1': process.env['NABLA'] ?? 'http://127.0.0.1:8000' } },
  // A busy machine is no failure. The tested parts are pure, so one thread loads them once for all files.
  test: { include: ['src/**/*.test.ts'], pool: 'threads', isolate: false, maxWorkers: 1, testTimeout: 60_000 },
} as Parameters<typeof defineConfig>[0])
