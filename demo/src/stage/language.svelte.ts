/** The texts of the page in the language of the reader: `t('stage.play')`. Each language is one file, loaded on demand. */

import type english from '../texts/en.json'

type Dotted<T, Before extends string = ''> = {
  [K in keyof T & string]: T[K] extends string ? `${Before}${K}` : Dotted<T[K], `${Before}${K}.`>
}[keyof T & string]
/** The name of a text, such as `stage.play`. */
export type Key = Dotted<typeof english>
export type Language = 'en' | 'zh'
type Texts = { [key: string]: string | Texts }

export const LANGUAGES: Record<Language, { name: string; load: () => Promise<{ default: Texts }> }> = {
  en: { name: 'English', load: () => import('../texts/en.json') },
  zh: { name: '中文', load: () => import('../texts/zh.json') },
}
const STORED = 'nabla.language'

class Spoken {
  language = $state<Language>('en')
  texts = $state.raw<Texts>({})
}
export const spoken = new Spoken()

/** What `?lang=` of the address says, else what was chosen before, else what the browser asks for. */
export function preferredLanguage(): Language {
  const asked = new URLSearchParams(location.search).get('lang')
  const wishes = [asked, stored(), ...navigator.languages]
  for (const wish of wishes) {
    const code = wish?.toLowerCase().split('-')[0]
    if (code && code in LANGUAGES) return code as Language
  }
  return 'en'
}

function stored(): string | null {
  try {
    return localStorage.getItem(STORED)
  } catch {
    return null // a browser may forbid to store anything
  }
}

/** Load a language and show the page in it; `remember` keeps it for the next visit. */
export async function speak(language: Language, remember = false): Promise<void> {
  const texts = (await LANGUAGES[language].load()).default
  spoken.texts = texts
  spoken.language = language
  document.documentElement.lang = language === 'zh' ? 'zh-Hans' : 'en'
  if (remember) {
    try {
      localStorage.setItem(STORED, language)
    } catch {
      // The choice holds for this visit.
    }
  }
}

/** A text in the current language, with `{name}` replaced by what `places` gives. */
export function t(key: Key, places: Record<string, string | number> = {}): string {
  return filled(found(spoken.texts, key), places)
}

/** The text that a dotted key names; the key itself where there is none. */
export function found(texts: Texts, key: string): string {
  let here: string | Texts | undefined = texts
  for (const part of key.split('.')) here = typeof here === 'object' ? here[part] : undefined
  return typeof here === 'string' ? here : key
}

export function filled(text: string, places: Record<string, string | number>): string {
  return text.replace(/\{(\w+)\}/g, (whole, name: string) => (name in places ? String(places[name]) : whole))
}
