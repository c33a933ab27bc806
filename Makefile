# `make demo` trains on the sample pictures and opens the app; `make test` runs the tests. Both set up .venv first.
PYTHON ?= python3
DEMO_MINUTES ?= 15
DEMO_SIZE ?= 128
DEMO_RUN ?= runs/demo
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test quality style smoke screenshots clean

# Made again whenever what has to be installed has changed.
$(READY): pyproject.toml
	@echo "Setting up $(VENV); the first time this downloads PyTorch and takes a few minutes."
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $(READY)

demo: $(READY)
	@if [ -e $(DEMO_RUN) ]; then before=$(DEMO_RUN)-$$(date +%Y%m%d-%H%M%S); mv $(DEMO_RUN) $$before; \
		echo "The run before is in $$before now."; fi
	$(BIN)/python train.py --dataset examples/emoji_faces --size $(DEMO_SIZE) --max-minutes $(DEMO_MINUTES) \
		--sample-every 1min --output-dir $(DEMO_RUN)
	$(BIN)/fastgan app $(DEMO_RUN)

# Two at a time: many tests wait, for a Hub or a page. One thread each, or they would wait for each other's cores.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses 2 --dist loadfile

quality: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

style: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Trains a tiny model for a few steps, resumes it and draws from it, through the commands a person would use.
smoke: $(READY)
	@rm -rf runs/smoke
	$(BIN)/python train.py --dataset examples/emoji_faces --size 32 --ngf 8 --ndf 8 --max-steps 4 --eval-images 0 --output-dir runs/smoke
	$(BIN)/python train.py --resume runs/smoke --max-steps 8
	$(BIN)/fastgan sample runs/smoke --seeds 0-15 --grid runs/smoke/grid.png

# Every tab at desktop and phone width, light and dark, with the model that `make demo` trained, or with that of
# `make screenshots DEMO_RUN=runs/mine`; and docs/images/app.webp for the README.
screenshots: $(READY)
	$(BIN)/python docs/screenshots.py $(DEMO_RUN)

clean:
	rm -rf $(VENV) build dist *.egg-info
