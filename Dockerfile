# CPU:  docker build -t regnet-backbones .
# GPU:  docker build -t regnet-backbones --build-arg BASE=pytorch/pytorch:2.8.0-cuda12.8-cudnn9-runtime .
# Run:  docker run --rm -v "$PWD:/data" -w /data regnet-backbones train-detector --train voc:mine --val-fraction 0.2
#       with a GPU: --gpus all --shm-size 8g
ARG BASE=python:3.11-slim
FROM ${BASE}
WORKDIR /opt/regnet_backbones
COPY . .
# A torch of the base image stays; without one pip installs it.
RUN python -m pip install --no-cache-dir ".[all]" && regnet-backbones install-detectron2
ENTRYPOINT ["regnet-backbones"]
