# install, demo, test, lint: each works from a fresh clone; they set up .venv first when needed.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
LOCK := requirements/lock.txt
STAMP := $(VENV)/.installed
DEMO_CONFIG := configs/detectron2/quick/mask_rcnn_regnet_small_fpn.yaml
DEMO_OUTPUT := output/demo
SEMSEG_CONFIG := configs/semseg/quick/unet_regnet_small_shapes.yaml
SEMSEG_OUTPUT := output/demo_semseg
DEMO_PAGE := output/demo.html
# Both train at the same time, each with half of the cores: the networks are small. The detector for
# two thirds of its config's iterations.
DEMO_LENGTH := SOLVER.MAX_ITER 1000 TEST.EVAL_PERIOD 500
demo-detector demo-segmenter: export OMP_NUM_THREADS = \
	$(shell echo $$(( ($$(nproc 2>/dev/null || echo 2) + 1) / 2 )))

# Tests mostly wait for one thread of Python: two processes take half the time of one.
TEST_PROCESSES ?= 2

# The law, the zoo, weights, norms and the extractor: no framework is imported.
FAST_TESTS := $(addprefix tests/test_,$(addsuffix .py,backbone design design_rules files norm resume \
	weights_dialects weights_unwrap zoo))

# They come first: short ones at the end leave no process without work.
LONG_TESTS := $(addprefix tests/test_,$(addsuffix .py,distribution architectures distributed \
	train_semseg_killed frameworks export_segmenters evaluate export detection_engines \
	detection_exporting benchmark_engines smp predict torchvision training_evaluations))

.PHONY: install demo demo-detector demo-segmenter test test-fast lint format docs clean

install: $(STAMP)

# Interrupted while .venv is made for the first time, the marker .incomplete stays behind and the
# next run starts over; interrupted in a later update, the stamp stays old and pip runs again.
$(STAMP): pyproject.toml setup.py $(LOCK) requirements/evaluators.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	@if [ -e $(VENV)/.incomplete ] || [ ! -x $(PY) ]; then \
		rm -rf $(VENV) && mkdir $(VENV) && touch $(VENV)/.incomplete && $(PYTHON) -m venv $(VENV); \
	fi
	$(PY) -m pip install --quiet --constraint $(LOCK) pip setuptools wheel
	$(PY) -m pip install --quiet --constraint $(LOCK) --no-build-isolation \
		--editable ".[detectron2,smp,transformers,train,data,coco,design,export,openvino,report,docs,completion,dev]"
	$(PY) -m regnet_backbones install-detectron2
	$(PY) -m pip install --quiet --no-deps --requirement requirements/evaluators.txt
	@rm -f $(VENV)/.incomplete
	@touch $@

# Draw the shapes, train a Mask R-CNN and a U-Net on them, evaluate both on held-out ones, and show
# both on one page.
demo: install
	$(PY) tools/make_shapes.py --output datasets/shapes
	@$(MAKE) --no-print-directory --jobs 2 demo-segmenter demo-detector
	@sed -n '/^last validation/,$$p' $(SEMSEG_OUTPUT).log
	$(PY) tools/report.py $(DEMO_OUTPUT) $(SEMSEG_OUTPUT) --output $(DEMO_PAGE)
	@echo
	@echo "One RegNet, two tasks: MODEL.REGNET of $(DEMO_CONFIG)"
	@echo "and model.encoder of $(SEMSEG_CONFIG) are the same numbers."
	@echo "Both runs on one page: $(DEMO_PAGE)"
	@echo "Its weights go from one to the other: $(PY) tools/train_semseg.py --config $(SEMSEG_CONFIG)"
	@echo "  --output output/from_detector --model.encoder_weights $(DEMO_OUTPUT)/model_final.pth"

demo-detector: install
	$(PY) tools/train_net.py --config-file $(DEMO_CONFIG) OUTPUT_DIR $(DEMO_OUTPUT) $(DEMO_LENGTH)

demo-segmenter: install
	@mkdir -p output
	@echo "$(SEMSEG_OUTPUT).log: what the U-Net prints, which trains at the same time"
	@$(PY) tools/train_semseg.py --config $(SEMSEG_CONFIG) --output $(SEMSEG_OUTPUT) \
		--data.num_workers 0 > $(SEMSEG_OUTPUT).log 2>&1 || { tail $(SEMSEG_OUTPUT).log; exit 1; }

# A file of tests is one process's from beginning to end.
test: install
	OMP_NUM_THREADS=1 $(PY) -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile \
		--no-loadscope-reorder $(LONG_TESTS) $(filter-out $(LONG_TESTS),$(wildcard tests/test_*.py))

test-fast: install
	OMP_NUM_THREADS=1 $(PY) -m pytest -q --numprocesses $(TEST_PROCESSES) --dist loadfile $(FAST_TESTS)

lint: install
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -m mypy tests/typing

format: install
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

# The pages of docs/, and the reference from the docstrings. A warning is an error.
docs: install
	$(PY) -m sphinx -b html -n -W --keep-going -q docs docs/_build/html
	@echo "docs/_build/html/index.html"

clean:
	rm -rf $(VENV) docs/_build build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
