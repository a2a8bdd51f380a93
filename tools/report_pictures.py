"""The pictures of the report in docs/pictures, made anew with Chromium.

    masksup report runs/quickstart; masksup report runs/quickstart runs/csra --out both.html
    python -m tools.report_pictures runs/quickstart/report.html both.html --out docs/pictures

runs/quickstart is of `make quickstart`, calibrated; runs/csra of the same file with model.head.name=csra epochs=8.
"""

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

_CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
_GAP = 16  # pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("one", type=Path, metavar="REPORT.html", help="of one run")
    parser.add_argument("two", type=Path, metavar="BOTH.html", help="of two runs")
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"), metavar="DIR", help="(default: %(default)s)")
    args = parser.parse_args()
    one, two = args.one.resolve().as_uri(), args.two.resolve().as_uri()
    shoot(one, args.out / "report.png", 1185, 1330)
    shoot_frames([f"{one}#mistakes"], args.out / "report_mistakes.png", 1200, 760)
    shoot_frames([f"{two}#difference"], args.out / "report_two.png", 1200, 900)
    shoot_frames([one, f"{one}#curves", f"{one}#mistakes"], args.out / "report_phone.png", 390, 1000)


def shoot_frames(addresses: list[str], file: Path, width: int, height: int) -> None:
    """A picture of pages side by side, each in a frame: Chromium scrolls a frame to its anchor, but no page."""
    frames = "".join(
        f'<iframe src="{address}" width="{width}" height="{height}" scrolling="no"></iframe>' for address in addresses
    )
    style = f"body{{margin:0;display:flex;gap:{_GAP}px;overflow:hidden}} iframe{{border:0;flex:none}}"
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "frames.html"
        page.write_text(f"<!doctype html><meta charset=utf-8><style>{style}</style>{frames}", encoding="utf-8")
        shoot(page.as_uri(), file, len(addresses) * (width + _GAP) - _GAP, height)


def shoot(address: str, file: Path, width: int, height: int) -> None:
    """Write a picture of the page, in at most 256 colours, which halves the file."""
    chromium = next((found for name in _CHROMIUM if (found := shutil.which(name))), None)
    if chromium is None:
        raise SystemExit("found no Chromium, expected chromium or google-chrome on the PATH")
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}",
             "--allow-file-access-from-files", f"--window-size={width},{height}", "--virtual-time-budget=3000",
             f"--screenshot={file.resolve()}", address],
            check=True, capture_output=True, timeout=300,
        )  # fmt: skip
    Image.open(file).convert("RGB").quantize(256).save(file, optimize=True)
    print(f"{file}: {width} x {height}")


if __name__ == "__main__":
    main()
