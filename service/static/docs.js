// Swagger UI has dark colours, but only its own page's switch turns them on.
const dark = matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", follow);
follow();

// Reads the description as JSON; Swagger UI would read it as YAML, which takes ten times as long.
// Where the operator set no keys, nothing needs one, so no padlocks are drawn.
const Reading = () => ({
  statePlugins: {
    spec: {
      wrapActions: {
        parseToJson: (original, { specActions }) => (text) => {
          const description = JSON.parse(text);
          if (document.body.dataset.keys === "none") {
            delete description.security;
            delete description.components.securitySchemes;
          }
          return specActions.updateJsonSpec(description);
        },
      },
    },
  },
});

// This page reaches into Swagger UI's parts below; tests/browser says what has to work with another version of it.

// Schemas are looked up where they are shown, one at a time. Swagger UI's own resolver copies every schema into every
// place that refers to it before an operation opens: all types of layers, each with all activations and initializers.
const Schemas = (system) => {
  const PREFIX = "#/components/schemas/";
  const { createElement } = system.React;
  const found = new Map();
  const nameOf = (reference) => reference.slice(PREFIX.length);

  // Gives the same object for the same reference: Swagger UI tells by that where a schema leads back to itself.
  const lookUp = (schema) => {
    if (!schema?.$ref?.startsWith(PREFIX)) return schema;
    const { $ref, ...beside } = schema;
    const key = JSON.stringify(schema);
    if (!found.has(key)) {
      const target = system.specSelectors.specJson().getIn(["components", "schemas", nameOf($ref)]);
      found.set(key, { ...target?.toJS(), ...beside });
    }
    return found.get(key);
  };

  // Samples are made of whole schemas; what leads back to itself ends.
  const written = (schema, above = []) => {
    if (Array.isArray(schema)) return schema.map((each) => written(each, above));
    if (schema === null || typeof schema !== "object") return schema;
    if (schema.$ref) return above.includes(schema.$ref) ? {} : written(lookUp(schema), [...above, schema.$ref]);
    return Object.fromEntries(Object.entries(schema).map(([key, value]) => [key, written(value, above)]));
  };
  const withSchemas = (operation) => {
    for (const response of Object.values(operation.responses ?? {})) {
      for (const content of Object.values(response.content ?? {})) {
        if (content.schema && !content.examples) content.schema = written(content.schema);
      }
    }
    return operation;
  };

  // The name of an alternative is the value of `type` that chooses it, or else the name of its schema.
  const alternative = (schema) => {
    if (!schema?.$ref) return "";
    const { enum: names, const: name } = lookUp(schema).properties?.type ?? {};
    return name ?? names?.[0] ?? nameOf(schema.$ref);
  };
  const typeOf = (schema) => {
    if (schema?.$ref) return nameOf(schema.$ref);
    const alternatives = schema?.oneOf ?? schema?.anyOf;
    if (alternatives) {
      const names = new Set(alternatives.map(typeOf));
      const few = names.size > 3 ? new Set(alternatives.map((each) => lookUp(each).type ?? typeOf(each))) : names;
      return [...few].join(" | ");
    }
    const own = schema?.type ?? ("enum" in (schema ?? {}) ? typeof schema.enum[0] : "any");
    const inside = { array: schema?.items, object: schema?.properties ? undefined : schema?.additionalProperties };
    const one = (type) => (inside[type] ? `${type}<${typeOf(inside[type])}>` : type);
    return [own].flat().map(one).join(" | ");
  };

  return {
    fn: {
      resolveSubtree: async (description, path) => {
        const part = path.reduce((inner, key) => inner?.[key], description);
        return { spec: path[0] === "paths" && part?.responses ? withSchemas(part) : part, errors: [] };
      },
    },
    wrapComponents: {
      JSONSchema202012: (Original) => ({ schema, name, identifier, ...others }) => {
        const numbered = /^#\d+ /.test(name ?? "");
        const title = numbered ? alternative(schema) : name || (schema?.$ref ? nameOf(schema.$ref) : name);
        return createElement(Original, {
          ...others, schema: lookUp(schema), name: title, identifier: identifier || name,
        });
      },
      JSONSchema202012KeywordType: () => ({ schema, isCircular }) => createElement(
        "strong",
        { className: "json-schema-2020-12__attribute json-schema-2020-12__attribute--primary" },
        typeOf(schema) + (isCircular ? " [circular]" : ""),
      ),
      // Expanding everything would draw every activation in every type of layer.
      JSONSchema202012ExpandDeepButton: () => () => null,
    },
  };
};

// Nothing in the description is HTML: `<type>` stands for a type.
const Texts = ({ React }) => ({
  wrapComponents: {
    Markdown: (Original) => ({ source, ...others }) => {
      const outsideCode = (text) => text.replace(/(`[^`]*`)|</g, (found, code) => code ?? "&lt;");
      return React.createElement(Original, { ...others, source: source && outsideCode(source) });
    },
  },
});

// A stream is text, a line for each record; Swagger UI takes everything with "json" in its name for one document.
const Streams = ({ React }) => ({
  wrapComponents: {
    responseBody: (Original) => (props) => React.createElement(Original, {
      ...props, contentType: /ndjson/.test(props.contentType) ? "text/event-stream" : props.contentType,
    }),
  },
});

// The description itself, or a listing, would take seconds to colour: an element for every word.
const LongTexts = ({ React, getComponent }) => ({
  wrapComponents: {
    SyntaxHighlighter: (Original) => ({ renderPlainText, children, ...others }) =>
      renderPlainText && children?.length > 50_000
        ? renderPlainText({ children, PlainTextViewer: getComponent("PlainTextViewer") })
        : React.createElement(Original, { ...others, renderPlainText }, children),
  },
});

// No validator badge, because that would ask another server.
window.addEventListener("load", () => {
  window.ui = SwaggerUIBundle({
    url: document.documentElement.dataset.root + "/openapi.json",
    dom_id: "#swagger-ui",
    plugins: [Reading, Schemas, Texts, Streams, LongTexts],
    deepLinking: true,
    validatorUrl: null,
    tryItOutEnabled: true,
    displayRequestDuration: true,
    defaultModelsExpandDepth: 0,
  });
});
