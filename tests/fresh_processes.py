"""Code in fresh processes, which share the imports of what is not tested there."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# What takes long to import, and knows nothing of detectron2 or of this package.
PRELOADED = (
    "cv2 fvcore.nn iopath.common.file_io matplotlib.pyplot omegaconf PIL.Image pycocotools.coco "
    "scipy.io timm torch.utils.tensorboard torchvision.ops yacs.config"
)

DRIVER = """
import importlib, json, os, sys, traceback
folder, modules = sys.argv[1:]
for module in modules.split():
    importlib.import_module(module)
with open(f"{folder}/codes.json") as file:
    codes = json.load(file)
for name, code in codes.items():
    assert not {"regnet_backbones", "detectron2"} & set(sys.modules)
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        continue
    output = os.open(f"{folder}/{name}.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1), os.dup2(output, 2)
    try:
        exec(code, {"__name__": "__main__"})
    except SystemExit as end:
        print("ended" if not end.code else end)
    except BaseException:
        traceback.print_exc()
    else:
        print("ended")
    sys.stdout.flush()
    os._exit(0)
"""


def run_in_fresh_processes(
    codes: dict[str, str], folder: Path, places: tuple[Path, ...] = ()
) -> dict[str, str]:
    """Run each code in a process of its own, and return what each printed, by its name.

    A code that raises fails the test with its traceback. Packages are looked for in `places` first.
    """
    codes = {name: textwrap.dedent(code) for name, code in codes.items()}
    (folder / "codes.json").write_text(json.dumps(codes))
    path = os.pathsep.join([*map(str, places), str(ROOT), os.environ.get("PYTHONPATH", "")])
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", DRIVER, str(folder), PRELOADED],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        cwd=folder,
        check=True,
        timeout=600,
    )
    printed = {name: (folder / f"{name}.txt").read_text() for name in codes}
    for name, text in printed.items():
        assert text.endswith("ended\n"), f"{name}: {text}"
        assert "does not fit" not in text  # a fix of ours
    return {name: text.removesuffix("ended\n") for name, text in printed.items()}
