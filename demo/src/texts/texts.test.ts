import { expect, it } from 'vitest'
import en from './en.json'
import zh from './zh.json'

type Texts = { [key: string]: string | Texts }
const files = import.meta.glob<string>(['../**/*.svelte', '../**/*.ts', '!../**/*.test.ts'], { query: '?raw', import: 'default', eager: true })
const source = Object.values(files).join('\n')

function flat(texts: Texts, before = ''): Map<string, string> {
  return new Map(
    Object.entries(texts).flatMap(([key, value]) =>
      typeof value === 'string' ? [[before + key, value] as const] : [...flat(value, `${before}${key}.`)],
    ),
  )
}
const english = flat(en)
const chinese = flat(zh)
const places = (text: string): string[] => [...text.matchAll(/\{(\w+)\}/g)].map((found) => found[1]!).sort()

it('has the same texts in both languages', () => {
  expect([...chinese.keys()].sort()).toEqual([...english.keys()].sort())
})

it('has the same places in both languages', () => {
  for (const [key, text] of english) expect([key, places(chinese.get(key) ?? '')]).toEqual([key, places(text)])
})

it('has no empty text', () => {
  for (const [key, text] of [...english, ...chinese]) expect(text.trim(), key).not.toBe('')
})

it('uses every text', () => {
  // A key stands in quotes, or begins with what stands before a place of a template.
  const stems = [...source.matchAll(/`([a-z]+\.[\w.]*)\$\{/g)].map((found) => found[1]!)
  const unused = [...english.keys()].filter(
    (key) => !new RegExp(`['"\`]${key.replaceAll('.', '\\.')}['"\`]`).test(source) && !stems.some((stem) => key.startsWith(stem)),
  )
  expect(unused).toEqual([])
})
