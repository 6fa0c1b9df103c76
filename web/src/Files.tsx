import { useEffect, useState } from "react";
import { FILES, hasToken, request } from "./api.ts";
import { Icon } from "./Icon.tsx";
import { readableSize } from "./names.ts";

/** A file's address that tags can load: tags send no token, so with one the file is fetched first. */
function useLoadable(url: string): string | undefined {
  const own = url.startsWith(FILES);
  const fetched = own && hasToken();
  const [blob, setBlob] = useState<string>();
  useEffect(() => {
    if (!fetched) return;
    let made: string | undefined;
    let left = false;
    void request(url, { cache: "default" })
      .then((response) => response.blob())
      .then((content) => {
        if (left) return;
        made = URL.createObjectURL(content);
        setBlob(made);
      })
      .catch(() => undefined);
    return () => {
      left = true;
      if (made) URL.revokeObjectURL(made);
    };
  }, [url, fetched]);
  if (fetched) return blob;
  return own || /^(https?:|data:|blob:)/i.test(url) ? url : undefined;
}

const IMAGES = new Set(["image/png", "image/jpeg", "image/gif", "image/webp", "image/avif"]);

interface FileProps {
  url: string;
  mediaType: string;
  name: string;
  size?: number;
}

export function FileView({ url, mediaType, name, size }: FileProps) {
  const src = useLoadable(url);
  const ours = !/^https?:/i.test(url);
  if (IMAGES.has(mediaType) && ours) {
    return (
      <a className="picture" href={src?.startsWith("data:") ? undefined : src} target="_blank" rel="noopener noreferrer">
        {src && <img src={src} alt={name} />}
      </a>
    );
  }
  return (
    <a className="file" href={src} download={ours ? name : undefined} target="_blank" rel="noopener noreferrer">
      <Icon name="file" />
      <span className="file-name">{name}</span>
      {size !== undefined && <span className="file-size">{readableSize(size)}</span>}
    </a>
  );
}
