"""Take docs/images/explorer.png: the explorer with the network of a run that has learned to turn digits upright.

python examples/reproduce_table1.py --model ST-CNN --transform affine --data R
python tests/explorer_picture.py runs/table1/modern-ST-CNN-affine-R-0 docs/images/explorer.png
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import browser

from ministn.explorer.look import Explorer, load_digits
from ministn.explorer.network import read_run
from ministn.explorer.server import Server


def main(run: str, picture: str) -> None:
    server = Server(Explorer(load_digits(), read_run(Path(run))))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    program = browser.find()
    if program is None:
        sys.exit("explorer_picture: expected Chromium or Chrome on this machine, found none")
    with browser.Browser(program) as page:
        page.open(server.address)
        page.wait_for("document.body?.dataset.ready && !asking")
        page.run("set = 3, showDigits(), setDigit(start.digits[5][3]), setTurn(60), setPixel(17, 18)")
        page.wait_for("!asking")
        page.picture(Path(picture))
    server.shutdown()
    server.server_close()


if __name__ == "__main__":
    main(*sys.argv[1:])
