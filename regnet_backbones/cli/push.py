"""`push`: a trained model as a folder of safetensors, config and card, to the Hugging Face hub."""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from regnet_backbones.cli.models import EVALUATION_FOLDER
from regnet_backbones.cli.report import OWN_FOLDER
from regnet_backbones.cli.run import find_config, subcommand

DESCRIPTION = """\
Upload a trained detector or segmenter to the Hugging Face hub.

    %(prog)s output/demo owner/name --dry-run demo_to_share
    %(prog)s output/demo owner/name --private
    %(prog)s output/mine/checkpoints/best.ckpt owner/name --revision v2

It writes the weights as safetensors, the config without paths of this machine, and a card: classes,
sizes of the data, the numbers of `evaluate`, and the licence of the weights that the training began
from. Others give hf-hub:owner/name to evaluate, predict, export, and as weights.
"""


def push_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `push`."""
    add = parser.add_argument
    add("trained", metavar="RUN", help="folder of a training, or a checkpoint")
    add("repo", metavar="OWNER/NAME", help="repository of the hub, made if it does not exist")
    add("--dry-run", metavar="FOLDER", help="write the files to a new folder, and upload nothing")
    add("--private", action="store_true", help="a new repository is private")
    add("--revision", metavar="BRANCH", help="upload to this branch (default: main)")
    add("--config-file", metavar="CONFIG", help="of a detector: config.yaml next to the checkpoint")


@subcommand(DESCRIPTION, push_arguments)
def push_command(args: argparse.Namespace) -> int:
    """Write the folder of a model, and upload it."""
    from regnet_backbones.runs import sharing
    from regnet_backbones.runs.trained import find_trained

    sharing.check_repo(args.repo)
    if args.dry_run is not None:
        sharing.check_new_folder(Path(args.dry_run))
    config = args.config_file and find_config(args.config_file, "detectron2")
    trained = find_trained(args.trained, config_file=config)
    with TemporaryDirectory() as temporary:
        folder = Path(args.dry_run or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if trained.kind == "detector":
            from regnet_backbones.detection.sharing import share

            facts = share(trained, folder)
        else:
            from regnet_backbones.semseg.sharing import share as share_segmenter

            facts = share_segmenter(trained, folder, repo=args.repo)
        results = [trained.run_folder / name for name in (EVALUATION_FOLDER, OWN_FOLDER)]
        sharing.write_card(folder, trained, facts, repo=args.repo, results=results)
        if args.dry_run is not None:
            print(f"nothing was uploaded; what would be: {folder}")
            return 0
        url = sharing.upload(folder, args.repo, private=args.private, revision=args.revision)
    print(f"uploaded: {url}, which is hf-hub:{args.repo} to the commands")
    return 0
