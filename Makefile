# make demo    install into .venv, train on generated sketches and photos, evaluate on classes never seen in training
# make test    the same installation, run the whole CPU suite
# make lint    ruff and clang-format, changing nothing        make format   the same, mending what they can
# make native  the C++ pieces by CMake, with the module that opens them to pytest        make bench    time the ops and their peers

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
KERNELS := $(wildcard csrc/*.h csrc/*/*)

.PHONY: demo test lint format native bench install clean

demo: $(VENV)/.installed
	$(BIN)/zsml demo --out runs/demo

test: $(VENV)/.installed native
	$(BIN)/ctest --test-dir build/native --output-on-failure --exclude-regex internals
	$(BIN)/python -m pytest

native: $(VENV)/.installed
	$(BIN)/cmake -S . -B build/native -G Ninja -DPython_EXECUTABLE=$(abspath $(BIN)/python) -DZSML_CUDA=OFF -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN)/ninja) > build/cmake.log 2>&1 || (cat build/cmake.log; exit 1)
	$(BIN)/cmake --build build/native

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	git ls-files 'csrc/*' 'tests/*.cpp' 'tests/*.h' | grep -E '\.(h|cpp|cu|cuh)$$' | xargs $(BIN)/clang-format --dry-run -Werror

format: $(VENV)/.lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	git ls-files 'csrc/*' 'tests/*.cpp' 'tests/*.h' | grep -E '\.(h|cpp|cu|cuh)$$' | xargs $(BIN)/clang-format -i

bench: $(VENV)/.installed
	$(BIN)/zsml bench all --sizes 120 1024 4096 sketchy tuberlin quickdraw

install: $(VENV)/.installed

# The build uses the torch installed one line above it: no second copy in an isolated environment.
$(VENV)/.installed: pyproject.toml setup.py constraints.txt $(KERNELS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "zsml needs Python 3.10 or newer; name one: make PYTHON=python3.12 ...")'
	@$(PYTHON) -c 'import venv, ensurepip' || (echo "this Python cannot make environments; on Debian: apt install python3-venv python3-dev" >&2; exit 2)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@mkdir -p build
	@echo "installing torch (a few minutes the first time) ..."
	@$(PIP) -q setuptools wheel ninja numpy torch torchvision
	@echo "building the kernels and installing zsml ..."
	@$(PIP) -v --no-build-isolation -e '.[test,bench]' > build/install.log 2>&1 || (tail -n 40 build/install.log; exit 1)
	@grep -m 1 -o 'zsml: .* kernels .*' build/install.log
	@touch $@

$(VENV)/.lint: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) -q ruff clang-format
	@touch $@

clean:
	rm -rf build dist *.egg-info zsml/*.so
