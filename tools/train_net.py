"""Train or evaluate a detector or segmenter on a RegNet, with detectron2's conventions.

    python tools/train_net.py --config-file configs/detectron2/mask_rcnn_regnety_032_fpn_1x.yaml \
        --num-gpus 8
    python tools/train_net.py --config-file CONFIG --resume
    python tools/train_net.py --config-file CONFIG --eval-only MODEL.WEIGHTS output/model_final.pth
    python tools/train_net.py --config-file CONFIG --optimize

On one's own data in COCO's json format, without writing code:

    python tools/train_net.py --config-file CONFIG \
        --train-json train.json --train-images images/train \
        --val-json val.json --val-images images/val SOLVER.MAX_ITER 3000

The number of classes and their names are taken from the json. Data are checked before a training
begins; all of them, without training, with

    python tools/train_net.py --config-file CONFIG --check-data

On two machines, with the address of the first one:

    python tools/train_net.py --config-file CONFIG --num-machines 2 --machine-rank 0 --num-gpus 8 \
        --dist-url tcp://10.0.0.1:29500
    torchrun --nnodes 2 --node-rank 0 --nproc-per-node 8 --master-addr 10.0.0.1 \
        --master-port 29500 tools/train_net.py --config-file CONFIG
"""

import sys

from regnet_backbones.detection.run import argument_parser, launch_run


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and run."""
    return launch_run(argument_parser(epilog=__doc__).parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
