# The project's commands. `make` lists them: the list is made from what follows the ## of each target.
#
# All of them work in .venv, which the first one sets up and later ones use as it is. What pip needs to know of your
# network (a mirror, a proxy, wheels on disk) it reads from its own settings, PIP_INDEX_URL and the like.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

DEMO_READY := $(VENV)/.ready-for-demo
TEST_READY := $(VENV)/.ready-for-test
NOTEBOOKS_READY := $(VENV)/.ready-for-notebooks

# Game time of an episode of the demo, in seconds: most of the demo's time is packing frames in bz2.
DEMO_SECONDS ?= 6

# What JupyterLab is told besides, on a machine without a browser: `make notebooks JUPYTER='--no-browser --port 8888'`.
JUPYTER ?=

# `make bench WRITE=--write` replaces the measured sections of docs/performance.md.
WRITE ?=

# A process a core; the tests of a file stay together, with what they set up.
IN_PARALLEL := --numprocesses auto --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help demo notebooks test quick soak lint types bench bench-scale docs format clean distclean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(DEMO_READY) ## set up, then the main job on real games: record, ingest, ask, and leave a picture in demo/
	rm -rf demo
	$(BIN)/crowdplay-lake record demo/raw --seconds $(DEMO_SECONDS)
	$(BIN)/crowdplay-lake ingest demo/raw demo/lake
	$(BIN)/crowdplay-lake info demo/lake
	# Episodes and hours of each game.
	$(BIN)/crowdplay-lake sql demo/lake "SELECT game, count(*) AS episodes, \
	    round(sum(n_steps) / 60 / 3600, 4) AS hours FROM episodes GROUP BY game ORDER BY game"
	# Where people keep the ship in Space Invaders, by task, from RAM: 0 is the left end, 1 the right end.
	$(BIN)/crowdplay-lake sql demo/lake "SELECT task, count(DISTINCT episode_id) AS episodes, \
	    round(avg((ram_1c - 35) / 82), 2) AS position FROM steps JOIN episodes USING (episode_id, game) \
	    WHERE game = 'space_invaders' AND step >= 120 GROUP BY task ORDER BY position"
	# How much of each two-player episode an AI played in the second player's place.
	$(BIN)/crowdplay-lake sql demo/lake "SELECT game, episode_id, count(*) AS steps, \
	    round(avg((user_type = 2)::INT), 2) AS played_by_ai FROM steps \
	    WHERE agent_id = 'game_0>player_1' GROUP BY game, episode_id ORDER BY played_by_ai, episode_id"
	$(BIN)/python examples/demo_picture.py demo/lake demo/observations.png

notebooks: $(NOTEBOOKS_READY) ## set up, and open the notebooks in JupyterLab; on demo/lake, or CROWDPLAY_LAKE=LAKE
	test -n "$(CROWDPLAY_LAKE)" -o -d demo/lake || $(MAKE) demo
	$(if $(CROWDPLAY_LAKE),CROWDPLAY_LAKE=$(if $(findstring ://,$(CROWDPLAY_LAKE)),$(CROWDPLAY_LAKE),$(abspath $(CROWDPLAY_LAKE)))) \
	    $(BIN)/jupyter lab notebooks $(JUPYTER)

test: lint types ## set up, then lint, types and all tests
	$(BIN)/python -m pytest $(IN_PARALLEL)

quick: $(TEST_READY) ## the tests that need no torch and no long game
	$(BIN)/python -m pytest $(IN_PARALLEL) -m "not slow and not soak"

soak: $(TEST_READY) ## the tests that take minutes: memory and time at full size
	$(BIN)/python -m pytest -m soak

lint: $(TEST_READY) ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(TEST_READY) ## mypy, strict
	$(BIN)/mypy
	$(BIN)/mypy benchmarks examples

bench: $(TEST_READY) ## a lake beside CrowdPlay's files and other formats, ingest, finding, statistics, feeding, start (15 minutes or more)
	$(BIN)/python -m benchmarks.suite $(WRITE)
	$(BIN)/python -m benchmarks.reader $(WRITE)
	$(BIN)/python -m benchmarks.windows $(WRITE)
	$(BIN)/python -m benchmarks.start $(WRITE)
	$(BIN)/python -m benchmarks.ingest
	$(BIN)/python -m benchmarks.metadata
	$(BIN)/python -m benchmarks.statistics
	$(BIN)/python -m benchmarks.feeding

bench-scale: $(TEST_READY) ## questions to a million generated episodes, and to 65 million steps, recorded ones repeated (an hour, 6 GB of disk)
	$(BIN)/python -m benchmarks.at_scale
	$(BIN)/python -m benchmarks.real_size $(WRITE)

docs: $(DEMO_READY) ## write the pages that are made from the code
	$(BIN)/python -c "from crowdplay_lake.schema import as_markdown; print(as_markdown(), end='')" > docs/tables.md
	$(BIN)/python -c "from crowdplay_lake.statistics.registry import as_markdown; print(as_markdown(), end='')" \
	    > docs/statistics_list.md

format: $(TEST_READY) ## rewrite the code as `make lint` wants it
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove what the commands leave behind, .venv aside
	rm -rf demo build dist d3rlpy_logs .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## remove .venv too
	rm -rf $(VENV)

# The set-up. A stamp is younger than what it was made from, so each part runs once and again after a change.

$(VENV)/.made:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(DEMO_READY): $(VENV)/.made pyproject.toml constraints.txt
	$(INSTALL) --editable '.[record]'
	touch $@

$(NOTEBOOKS_READY): $(TEST_READY)
	$(INSTALL) --editable '.[notebooks]'
	touch $@

# torch by its version and before what needs it: a newer one that pip may find can bring CUDA, several GB of it.
$(TEST_READY): $(VENV)/.made pyproject.toml constraints.txt
	$(INSTALL) torch==2.13.0
	$(INSTALL) --editable '.[all,bench,dev]'
	touch $(DEMO_READY) $@
