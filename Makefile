# SPDX-License-Identifier: Apache-2.0
# The common tasks, thin over CMakePresets.json and tools/. `make help` lists them.
SHELL := /bin/bash
STAMP := .venv/bootstrap.stamp
# A compiler on torch's headers takes up to 1.5 GB: no more jobs than memory allows.
JOBS ?= $(shell awk '/MemTotal/ {n = int($$2 / 1.5e6)} END {print n < 1 ? 1 : n}' /proc/meminfo | \
          { read m; c=$$(nproc); echo $$((m < c ? m : c)); })

.PHONY: help build demo test check-all bench bench-attention lint format clean
.DEFAULT_GOAL := build

help:  ## list the tasks
	@awk -F ':.*## ' '/^[a-z-]+:.*##/ {printf "make %-16s %s\n", $$1, $$2}' Makefile

$(STAMP): tools/bootstrap tools/packages-debian.txt tools/requirements-dev.txt
	tools/bootstrap

build: $(STAMP)  ## the program build/bin/axial, the package build/python, the tests
	cmake --preset release
	cmake --build --preset release -j $(JOBS)
	ln -sfn release/bin build/bin
	ln -sfn release/python build/python

demo: build  ## a small model trained, evaluated and used, in minutes
	tools/demo

test: build  ## all fast tests: C++ (ctest) and Python (pytest)
	tools/run_tests

check-all: build  ## test, and sanitizers, fuzzing, full lint, wheel, slow tests
	tools/check_all

bench: $(STAMP)  ## micro-benchmarks, and training throughput beside transformers
	cmake --preset bench
	cmake --build --preset bench -j $(JOBS)
	tools/run_benches

bench-attention: build  ## attention with biases beside eager torch and SDPA
	cmake --preset bench
	cmake --build --preset bench -j $(JOBS) --target axial_kernels_benches
	.venv/bin/python benchmarks/attention.py --picture build/attention.svg

lint: $(STAMP)  ## format, layers, headers, clang-tidy on changed and torch-free files, ruff
	tools/lint

format: $(STAMP)  ## rewrite sources in the house format
	git ls-files -z -c -o --exclude-standard '*.h' '*.cpp' | xargs -0 clang-format-14 -i
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

clean:  ## remove build results; .venv stays
	rm -rf build
