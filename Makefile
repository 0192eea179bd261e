# make | make demo | make test | make check | make bench | make lint | make format | make install DESTDIR= PREFIX=
# Sanitizers: make check SAN=address,undefined   (or SAN=thread); each set has a build folder of its own.
VERSION    := $(shell git describe --tags --always --dirty 2>/dev/null || echo 0.1.0)
PREFIX     ?= /usr/local
BINDIR     ?= $(PREFIX)/bin
SYSCONFDIR ?= $(PREFIX)/etc
DATADIR    ?= $(PREFIX)/share
PKG_CONFIG ?= pkg-config
comma      := ,
BUILD      ?= build$(if $(SAN),-$(subst $(comma),-,$(SAN)))
V ?= 0
Q := $(if $(filter 1,$(V)),,@)

# Debian and Ubuntu package names; `make deps` installs what is missing
DEB_BUILD := gcc make pkg-config librdkafka-dev libgit2-dev libjansson-dev libsodium-dev libssl-dev libpq-dev libmicrohttpd-dev \
  libcurl4-openssl-dev libsqlite3-dev libyaml-dev libzstd-dev libical-dev tzdata check git
DEB_RUN   := postgresql postgresql-client jq curl python3 python3-venv python3-pip
DEB_TEST  := kcat default-jdk-headless maven golang-go libclang-rt-dev xz-utils

PKGS      := rdkafka libgit2 jansson libsodium libcrypto libpq libmicrohttpd libcurl sqlite3 yaml-0.1 libzstd libical
TEST_PKGS := check
NOBUILD   := clean distclean help lint format format-check deps deps-quiet demo test bench
ifneq ($(filter-out $(NOBUILD),$(or $(MAKECMDGOALS),all)),)
$(foreach p,$(PKGS),$(if $(shell $(PKG_CONFIG) --exists $(p) && echo y),,\
  $(error missing library "$(p)": run "make deps", or install its -dev package)))
endif

CC         ?= cc
CSTD       := -std=c17 -D_GNU_SOURCE
WARN       := -Wall -Wextra -Wpedantic -Wshadow -Wvla -Wundef -Wwrite-strings \
  -Wstrict-prototypes -Wold-style-definition -Wmissing-prototypes \
  -Wpointer-arith -Wcast-qual -Wformat=2 -Wformat-signedness -Wnull-dereference \
  -Wlogical-op -Wduplicated-cond -Wimplicit-fallthrough=5 \
  -Wswitch-enum -Wconversion -Wdouble-promotion -Wjump-misses-init \
  -Werror=implicit-function-declaration -Werror=incompatible-pointer-types \
  -Werror=int-conversion -Werror=return-type -Werror=format-security
HARDEN     := -fstack-protector-strong -fstack-clash-protection \
  -ftrivial-auto-var-init=zero -fno-common -fPIE \
  $(if $(SAN),,-U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=3)
ifeq ($(shell uname -m),x86_64)
HARDEN     += -fcf-protection=full
endif
LDHARDEN   := -pie -Wl,-z,relro,-z,now,-z,noexecstack -Wl,--as-needed
OPT        ?= $(if $(SAN),-O1 -g3 -fno-omit-frame-pointer,-O2 -g)
# instrumented code makes gcc see null pointers where there are none
SANFLAGS   := $(if $(SAN),-fsanitize=$(SAN) -fno-sanitize-recover=all -Wno-null-dereference)

ALL_CFLAGS  = $(CSTD) $(OPT) $(WARN) $(if $(WERROR),-Werror) $(HARDEN) $(SANFLAGS) \
  -Iproto/include $(PKG_CFLAGS) $(CFLAGS)
ALL_LDFLAGS = $(LDHARDEN) $(SANFLAGS) $(LDFLAGS)
PKG_CFLAGS := $(shell $(PKG_CONFIG) --cflags $(PKGS) 2>/dev/null)
LIBS       := $(shell $(PKG_CONFIG) --libs $(PKGS) 2>/dev/null) -lpthread
TEST_LIBS  := $(shell $(PKG_CONFIG) --libs $(TEST_PKGS) 2>/dev/null)

obj = $(patsubst %.c,$(BUILD)/%.o,$(wildcard $(1)))
PROTO_OBJ := $(call obj,proto/src/*/*.c)
AGENT_OBJ := $(call obj,broker-agent/src/*.c broker-agent/src/*/*.c)
HUB_OBJ   := $(call obj,lifecycle-hub/src/*.c lifecycle-hub/src/*/*.c)
CLI_OBJ   := $(call obj,cli/src/*.c)
# everything but main(), for the tests of the daemons' own modules
AGENT_LIB := $(filter-out %/main.o,$(AGENT_OBJ))
HUB_LIB   := $(filter-out %/main.o,$(HUB_OBJ))
TSUP_OBJ  := $(call obj,tests/support/*.c)
TOOLS     := $(patsubst tests/tools/%.c,$(BUILD)/tools/%,$(wildcard tests/tools/*.c))
UNIT      := $(patsubst %.c,$(BUILD)/%,$(wildcard tests/unit/test_*.c))
FUZZ      := $(patsubst %.c,$(BUILD)/%,$(wildcard tests/fuzz/fuzz_*.c))
COMPONENT := $(patsubst %.c,$(BUILD)/%,$(wildcard tests/component/test_*.c))
LIB       := $(BUILD)/libstagebridge.a
AGENT     := $(BUILD)/broker-agent/broker-agent
HUB       := $(BUILD)/lifecycle-hub/lifecycle-hub
CLI       := $(BUILD)/cli/stagebridge
BINS      := $(if $(wildcard broker-agent/src/main.c),$(AGENT)) $(if $(wildcard lifecycle-hub/src/main.c),$(HUB)) $(if $(wildcard cli/src/main.c),$(CLI))

.PHONY: all demo test check check-component bench deps-quiet lint format format-check docs install deps clean distclean help FORCE
.SECONDARY:
.DELETE_ON_ERROR:
all: $(BINS) $(TOOLS)

$(AGENT): $(AGENT_OBJ) $(LIB)
$(HUB): $(HUB_OBJ) $(LIB)
$(CLI): $(CLI_OBJ) $(LIB)
$(BINS):
	@echo "  LD      $@"
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS)

$(LIB): $(PROTO_OBJ)
	@echo "  AR      $@"
	$(Q)rm -f $@ && $(AR) rcs $@ $^

# each daemon sees its own headers and proto's, never the other's
$(AGENT_OBJ): ALL_CFLAGS += -Ibroker-agent/src
$(HUB_OBJ):   ALL_CFLAGS += -Ilifecycle-hub/src
$(CLI_OBJ):   ALL_CFLAGS += -Icli/src

$(BUILD)/%.o: %.c $(BUILD)/.flags
	@mkdir -p $(@D)
	@echo "  CC      $<"
	$(Q)$(CC) $(ALL_CFLAGS) -MMD -MP -c -o $@ $<

# the version is known to one object, so that a commit does not rebuild everything
$(BUILD)/proto/src/base/base.o: ALL_CFLAGS += -DSB_VERSION='"$(VERSION)"'
$(BUILD)/proto/src/base/base.o: $(BUILD)/.version
$(BUILD)/.version: FORCE
	@mkdir -p $(@D)
	@echo '$(VERSION)' | cmp -s - $@ || echo '$(VERSION)' > $@

# files that SB_EMBED puts into objects
$(BUILD)/lifecycle-hub/src/store/migrate.o: $(wildcard lifecycle-hub/src/store/migrations/*.sql)
$(BUILD)/lifecycle-hub/src/http/page.o: $(wildcard lifecycle-hub/src/http/page/*)

# rebuild everything when the flags change
$(BUILD)/.flags: FORCE
	@mkdir -p $(@D)
	@echo '$(subst ','\'',$(CC) $(ALL_CFLAGS) $(ALL_LDFLAGS))' | cmp -s - $@ || \
	  echo '$(subst ','\'',$(CC) $(ALL_CFLAGS) $(ALL_LDFLAGS))' > $@
FORCE:

# tests: test_agent_*.c may use the agent's modules, test_hub_*.c the hub's, all others the library alone
# allocation faults (tests/support/support.h) need our malloc in front: without sanitizers only
WRAP := $(if $(SAN),,-Wl$(comma)--wrap=malloc$(comma)--wrap=calloc$(comma)--wrap=realloc)
$(BUILD)/tests/unit/test_log: WRAP += -Wl$(comma)--wrap=sb_mono_ms
$(BUILD)/tests/%.o: ALL_CFLAGS += -Itests/support $(if $(SAN),,-DSB_FAULT)
$(BUILD)/tests/%_agent.o $(BUILD)/tests/unit/test_agent_%.o $(BUILD)/tests/component/test_agent_%.o $(BUILD)/tests/fuzz/fuzz_agent_%.o: ALL_CFLAGS += -Ibroker-agent/src
$(BUILD)/tests/unit/test_hub_%.o $(BUILD)/tests/component/test_hub_%.o $(BUILD)/tests/fuzz/fuzz_hub_%.o: ALL_CFLAGS += -Ilifecycle-hub/src
define link_test
	@mkdir -p $(@D)
	@echo "  LD      $@"
	$(Q)$(CC) $(ALL_LDFLAGS) $(WRAP) -o $@ $(filter-out %.flags,$^) $(TEST_LIBS) $(LIBS)
endef
$(filter $(BUILD)/tests/unit/test_agent_% $(BUILD)/tests/component/test_agent_% $(BUILD)/tests/fuzz/fuzz_agent_%,$(UNIT) $(COMPONENT) $(FUZZ)): %: %.o $(TSUP_OBJ) $(AGENT_LIB) $(LIB)
	$(link_test)
$(filter $(BUILD)/tests/unit/test_hub_% $(BUILD)/tests/component/test_hub_% $(BUILD)/tests/fuzz/fuzz_hub_%,$(UNIT) $(COMPONENT) $(FUZZ)): %: %.o $(TSUP_OBJ) $(HUB_LIB) $(LIB)
	$(link_test)
$(filter-out $(BUILD)/tests/unit/test_agent_% $(BUILD)/tests/component/test_agent_% $(BUILD)/tests/fuzz/fuzz_agent_% $(BUILD)/tests/unit/test_hub_% $(BUILD)/tests/component/test_hub_% $(BUILD)/tests/fuzz/fuzz_hub_%,$(UNIT) $(COMPONENT) $(FUZZ)): %: %.o $(TSUP_OBJ) $(LIB)
	$(link_test)

$(BUILD)/tools/%: $(BUILD)/tests/tools/%.o $(LIB)
	@mkdir -p $(@D)
	@echo "  LD      $@"
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS)

# unit tests, fault loops and fuzz replay: under a minute, no servers; the vectors in another language; generated pages are up to date
check: all $(UNIT) $(FUZZ)
	@python3 tests/tools/check_vectors.py
	@sh tests/support/docs.sh --check $(BUILD)
	@tests/support/run.sh unit $(UNIT) $(FUZZ)

# real servers below one library at a time: PostgreSQL, in-process brokers
check-component: all $(COMPONENT)
	@SB_TEST_TIMEOUT=300 tests/support/run.sh component $(COMPONENT)

# everything, against real Kafka, Gitea and PostgreSQL; the last line is "N passed, N failed"
test:
	@tests/run.sh

# figures into build/bench/results.jsonl, page docs/benchmarks.md; ONLY=entities.latency for one, ARGS='--runs=1 --peers=none' (bench.py --help)
bench: deps-quiet
	@$(MAKE) --no-print-directory -j$$(nproc) all
	@SB_BUILD='$(abspath $(BUILD))' python3 tests/bench/bench.py $(if $(ONLY),--only '$(ONLY)') $(ARGS)

demo: deps-quiet
	@$(MAKE) --no-print-directory -j$$(nproc) all
	@SB_BUILD='$(abspath $(BUILD))' config/demo/demo.sh $(ARGS)

# packages by name; nothing is done when nothing is missing
deps:
	@sh tests/support/deps.sh $(DEB_BUILD) $(DEB_RUN) $(if $(WITH_TEST),$(DEB_TEST))
deps-quiet:
	@sh tests/support/deps.sh --if-missing $(DEB_BUILD) $(DEB_RUN)

lint:
	@sh tests/support/lint.sh

format:
	clang-format -i $$(git ls-files '*.c' '*.h')
format-check:
	clang-format --dry-run -Werror $$(git ls-files '*.c' '*.h')

# generated pages: settings reference, state diagram
docs: all
	@sh tests/support/docs.sh $(BUILD)

install: all
	install -d $(DESTDIR)$(BINDIR) $(DESTDIR)$(SYSCONFDIR)/stagebridge $(DESTDIR)$(DATADIR)/stagebridge
	install -m 0755 $(BINS) $(DESTDIR)$(BINDIR)
	install -m 0644 config/agent.sample.yaml config/hub.sample.yaml $(DESTDIR)$(SYSCONFDIR)/stagebridge
	install -d $(DESTDIR)$(SYSCONFDIR)/stagebridge/policies
	install -m 0644 config/policies/*.sample.yaml $(DESTDIR)$(SYSCONFDIR)/stagebridge/policies
	cp -r proto/schemas proto/SPEC.md proto/asyncapi.yaml $(DESTDIR)$(DATADIR)/stagebridge

help:
	@sed -n '1,2p' Makefile

clean:
	rm -rf build build-*

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
