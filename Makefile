# Everything runs in $(VENV), which is made when first needed and refreshed when pyproject.toml changes.
VENV ?= .venv
PYTHON_IN := $(VENV)/bin/python
WORKERS ?= 2
SECONDS ?= 600
KILLS ?= 1000

.PHONY: help quickstart test test-oldest test-wheel lint format bench fuzz faults docs docs-site clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/:/' | column -t -s:

quickstart:  ## one adapter per painted world, on a fresh machine, with no download but the packages
	@.ci/environment $(VENV)
	$(PYTHON_IN) examples/quickstart.py

test: lint  ## lint, doctests and tests
	OMP_NUM_THREADS=1 $(PYTHON_IN) -m pytest --quiet --numprocesses $(WORKERS) --dist worksteal --junitxml=build/tests.xml

test-oldest:  ## the tests with the oldest Python and dependencies that pyproject.toml allows
	$${PYTHON:-python3} -m venv build/uv
	build/uv/bin/python -m pip install --quiet uv
	build/uv/bin/uv venv --quiet --clear --python 3.11 build/oldest
	build/uv/bin/uv pip install --quiet --python build/oldest/bin/python --resolution lowest-direct --editable '.[dev]'
	OMP_NUM_THREADS=1 build/oldest/bin/python -m pytest --quiet --numprocesses $(WORKERS) --dist worksteal

test-wheel:  ## the README and the notebooks from a wheel, in a clean environment and another folder
	@.ci/environment $(VENV)
	$(PYTHON_IN) -m pip install --quiet uv
	$(PYTHON_IN) .ci/wheel.py build/wheel

lint:  ## what ruff says of code and format, and the type checker of code and public names
	@.ci/environment $(VENV) dev
	$(PYTHON_IN) -m ruff check
	$(PYTHON_IN) -m ruff format --check
	$(PYTHON_IN) -m basedpyright --project pyproject.toml --pythonpath $(PYTHON_IN)
	$(PYTHON_IN) .ci/public_types.py

format:  ## let ruff mend both
	@.ci/environment $(VENV) dev
	$(PYTHON_IN) -m ruff check --fix
	$(PYTHON_IN) -m ruff format

docs:  ## write the pages that scripts write
	@.ci/environment $(VENV) dev
	set -e; for script in docs/make_*.py; do $(PYTHON_IN) $$script; done

docs-site:  ## build the site into site/: its notebooks run, every warning is an error, every link is followed
	@.ci/environment build/site-environment docs
	NO_MKDOCS_2_WARNING=1 PYTHONWARNINGS="ignore:IProgress not found" OMP_NUM_THREADS=1 build/site-environment/bin/python -m mkdocs build --strict --site-dir site
	build/site-environment/bin/python .ci/site_links.py site

bench:  ## run every benchmarks/bench_*.py, which write docs/performance.md
	@.ci/environment $(VENV) bench,dev
	set -e; for script in $(sort $(wildcard benchmarks/bench_*.py)); do $(PYTHON_IN) $$script; done
	$(PYTHON_IN) docs/make_performance.py
	$(PYTHON_IN) docs/make_scenes.py

fuzz:  ## open hostile files at every door for SECONDS=600 seconds; what met something forbidden is kept in build/fuzz
	@.ci/environment $(VENV) dev
	PYTHONPATH=.:tests OMP_NUM_THREADS=1 $(PYTHON_IN) -m fuzz.run --seconds $(SECONDS) --jobs $(WORKERS)
	$(PYTHON_IN) docs/make_reliability.py

faults:  ## kill saves KILLS=1000 times at every call that writes, and save on full disks and in odd places
	@.ci/environment $(VENV) dev
	PYTHONPATH=.:tests OMP_NUM_THREADS=1 $(PYTHON_IN) -m fuzz.faults --kills $(KILLS)
	$(PYTHON_IN) docs/make_reliability.py

clean:  ## forget environments and build products
	rm -rf $(VENV) build dist site *.egg-info
