/** How files are called, whoever made them. */

interface FilePart {
  url: string;
  filename?: string;
  providerMetadata?: Record<string, Record<string, unknown>>;
}

export function nameOf(part: FilePart): string {
  const told = part.filename ?? part.providerMetadata?.turnwire?.name;
  if (typeof told === "string" && told) return told;
  if (part.url.startsWith("data:")) return "file";
  const last = part.url.split("/").at(-1) ?? "";
  try {
    return decodeURIComponent(last) || part.url;
  } catch {
    return last;
  }
}

export function sizeOf(part: FilePart): number | undefined {
  const told = part.providerMetadata?.turnwire?.size;
  return typeof told === "number" ? told : undefined;
}

export function readableSize(bytes: number): string {
  if (bytes < 1000) return `${bytes} B`;
  if (bytes < 999_500) return `${Math.round(bytes / 1000)} kB`;
  return `${(bytes / 1e6).toFixed(1)} MB`;
}
