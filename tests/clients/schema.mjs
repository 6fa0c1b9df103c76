// Asks the schemas of the clients which events they refuse: {PACKAGE: [EVENT]} in, {PACKAGE: [INDEX]} out.

import { text } from 'node:stream/consumers';

const refused = {};
for (const [name, events] of Object.entries(JSON.parse(await text(process.stdin)))) {
  const { uiMessageChunkSchema } = await import(name);
  const schema = typeof uiMessageChunkSchema === 'function' ? uiMessageChunkSchema() : uiMessageChunkSchema;
  refused[name] = [];
  for (const [index, event] of events.entries()) {
    const { success } = await (schema.validate?.(event) ?? schema.safeParse(event));
    if (!success) refused[name].push(index);
  }
}
process.stdout.write(JSON.stringify(refused));
