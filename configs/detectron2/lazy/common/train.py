"""What `lazyconfig_train_net.py` reads in addition to model, data, optimizer and schedule.

On a machine without a GPU: `train.device=cpu`, and `train.amp.enabled=False` where a recipe has it.
"""

train = {
    "output_dir": "./output",
    "init_checkpoint": "",
    "max_iter": 90000,
    "amp": {"enabled": False},
    "ddp": {
        "broadcast_buffers": False,
        "find_unused_parameters": False,
        "fp16_compression": False,
    },
    "checkpointer": {"period": 5000, "max_to_keep": 100},
    "eval_period": 5000,
    "log_period": 20,
    "device": "cuda",
    "seed": -1,
    # The grouped convolutions of a RegNet gain from cuDNN's choice of algorithms.
    "cudnn_benchmark": True,
}
