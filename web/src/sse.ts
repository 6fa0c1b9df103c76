/** One server-sent event; `id` is null where none was given. */
export interface ServerEvent {
  id: string | null;
  event: string;
  data: string;
}

/** Splits the text of an event stream into events; feed it pieces of any size. */
export class EventParser {
  private rest = "";

  /** The events that `piece` completes. Comments are dropped. */
  feed(piece: string): ServerEvent[] {
    const blocks = (this.rest + piece).split("\n\n");
    this.rest = blocks.pop() ?? "";
    return blocks.map(parse).filter((event) => event !== null);
  }
}

function parse(block: string): ServerEvent | null {
  let id: string | null = null;
  let event = "message";
  const data: string[] = [];
  for (const line of block.split("\n")) {
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "data") data.push(value);
    else if (field === "id") id = value;
    else if (field === "event") event = value;
  }
  return data.length > 0 ? { id, event, data: data.join("\n") } : null;
}
