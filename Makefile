# Thin, over the CMake presets. Everything lands in build/.
PREFIX ?= /usr/local
JOBS ?= $(shell nproc)
SECONDS_OF_SOAK ?= 600
EVENTS_OF_SOAK ?= 1000000000
SOURCES = $(shell git ls-files --cached --others --exclude-standard '*.cpp' '*.hpp' '*.c' '*.h')

build:
	cmake --preset release
	cmake --build --preset release -j $(JOBS)

# One ctest run over three builds, so that its closing line is about all of it; a failure in any fails the whole.
test: deps
	set -e; for preset in release asan tsan; do \
	    cmake --preset $$preset; cmake --build --preset $$preset -j $(JOBS); \
	done
	mkdir -p build/test
	echo 'subdirs(../release ../asan ../tsan)' > build/test/CTestTestfile.cmake
	ctest --test-dir build/test --output-on-failure --no-tests=error

# Only what it runs is built.
demo: deps
	cmake --preset release
	cmake --build --preset release -j $(JOBS) --target cloister dataplane
	@echo
	@echo "A poll loop on its own CPU for 3 s. It writes a log line every 10 ms (log_progress), touches a fresh page now"
	@echo "and then (count_flow), and its housekeeper unmaps memory on another CPU (rotate_log). See it come out:"
	@echo
	build/release/bin/cloister run -- build/release/bin/dataplane 3

bench: build
	scripts/install-deps build bench
	python3 -B bench/run.py build/release/bin

soak: deps build
	python3 -B bench/soak.py build/release/bin --seconds $(SECONDS_OF_SOAK)
	build/release/bin/lane_storm $(SECONDS_OF_SOAK) $(EVENTS_OF_SOAK)

install: build
	cmake --install build/release --prefix $(PREFIX)

deps:
	scripts/install-deps

format:
	clang-format -i $(SOURCES)

tidy: build
	run-clang-tidy -quiet -extra-arg=-Wno-unknown-warning-option -p build/release -j $(JOBS)

clean:
	rm -rf build

.PHONY: build test demo bench soak install deps format tidy clean
.NOTPARALLEL:
