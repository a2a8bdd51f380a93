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
_PHONE = (390, 1000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("one", type=Path, metavar="REPORT.html", help="of one run")
    parser.add_argument("two", type=Path, metavar="BOTH.html", help="of two runs")
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"), metavar="DIR", help="(default: %(default)s)")
    args = parser.parse_args()
    one, two = args.one.resolve().as_uri(), args.two.resolve().as_uri()
    shoot(one, args.out / "report.png", 1185, 1330)
    shoot(f"{one}#mistakes", args.out / "report_mistakes.png", 1200, 760)
    shoot(f"{two}#difference", args.out / "report_two.png", 1200, 900)
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "phones.html"
        page.write_text(phones([one, f"{one}#curves", f"{one}#mistakes"]), encoding="utf-8")
        shoot(page.as_uri(), args.out / "report_phone.png", 3 * _PHONE[0] + 32, _PHONE[1])


def phones(addresses: list[str]) -> str:
    """A page with each address in a frame as wide as a phone."""
    frames = "".join(
        f'<iframe src="{address}" width="{_PHONE[0]}" height="{_PHONE[1]}" scrolling="no"></iframe>'
        for address in addresses
    )
    style = "body{margin:0;display:flex;gap:16px;overflow:hidden} iframe{border:0;flex:none}"
    return f"<!doctype html><meta charset=utf-8><style>{style}</style>{frames}"


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
