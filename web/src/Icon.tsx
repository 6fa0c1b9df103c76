const PATHS = {
  menu: "M4 7h16M4 12h16M4 17h16",
  theme: "M12 4a8 8 0 1 0 0 16V4z M12 4a8 8 0 0 1 0 16",
  language: "M3 6h10M8 3.5V6M11 6c-1 4-4 7-8 8.5M5 8.5c1 3 3 5 6.5 6M12.5 21 17 10.5 21.5 21M14.2 17.2h5.6",
  plus: "M12 5v14M5 12h14",
  send: "M12 19V5M6 11l6-6 6 6",
  stop: "M8 8h8v8H8z",
  attach: "M20 11.5 12.3 19a5 5 0 0 1-7-7L13 4.4a3.3 3.3 0 0 1 4.7 4.7L10 16.6a1.7 1.7 0 0 1-2.4-2.4L14.5 7.4",
  close: "M6 6l12 12M18 6 6 18",
  copy: "M9 9h10v11H9zM5 15V4h10",
  check: "M5 13l4 4L19 7",
  edit: "M4 20l1-4L16 5l3 3L8 19l-4 1z",
  retry: "M20 11a8 8 0 1 0-2 6M20 5v6h-6",
  chevron: "M9 6l6 6-6 6",
  down: "M12 5v14M6 13l6 6 6-6",
  file: "M7 3h7l5 5v13H7zM14 3v5h5",
  search: "M11 5a6 6 0 1 0 0 12 6 6 0 0 0 0-12zM15.5 15.5 20 20",
};

export function Icon({ name }: { name: keyof typeof PATHS }) {
  return (
    <svg className={`glyph glyph-${name}`} viewBox="0 0 24 24" aria-hidden="true">
      <path d={PATHS[name]} />
    </svg>
  );
}
