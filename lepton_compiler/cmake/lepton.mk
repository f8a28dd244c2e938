# Rules for GNU make that compile models.
#
#   LEPTONC ?= leptonc
#   include $(shell $(LEPTONC) --cmake-dir)/lepton.mk
#   $(eval $(call lepton-model,NAME,MODEL,OPTIONS))
#
# OPTIONS are leptonc's; `--emit lib` (the default) or `--emit static`. The model is compiled into the folder $(LEPTON_OUT)/NAME, and again
# when the model (with its external weights), OPTIONS or leptonc change. What uses it depends on $(NAME_MODEL) and takes the compiler flags
# $(NAME_CFLAGS) and the linker flags $(NAME_LDLIBS).

LEPTONC ?= leptonc
LEPTON_OUT ?= lepton
LEPTON_COMMA := ,

# 1: name; 2: model; 3: options. Rules that were made for a model are not what `make` alone makes. The file of options is rewritten, while make reads this, only if they are others.
define lepton-model
LEPTON_GOAL := $$(.DEFAULT_GOAL)
$(1)_MODEL := $(LEPTON_OUT)/$(1)/$(1).json
$(1)_CFLAGS := -I$(LEPTON_OUT)/$(1)
$(1)_LDLIBS := $(LEPTON_OUT)/$(1)/lib$(1)$(if $(findstring static,$(3)),.a -lm $(if $(findstring --threads,$(3)),-pthread),.so -Wl$(LEPTON_COMMA)-rpath$(LEPTON_COMMA)$(abspath $(LEPTON_OUT)/$(1)))
$(shell mkdir -p $(LEPTON_OUT); text='$(subst ','\'',$(LEPTONC) $(2) $(3))'; file='$(LEPTON_OUT)/$(1).options'; \
  [ "$$(cat "$$file" 2>/dev/null)" = "$$text" ] || printf '%s\n' "$$text" > "$$file")
$(LEPTON_OUT)/$(1)/$(1).json: $(2) $(LEPTON_OUT)/$(1).options
	$(LEPTONC) $(2) -o $(LEPTON_OUT)/$(1) --name $(1) $(3) -MF $(LEPTON_OUT)/$(1).d
$(LEPTON_OUT)/$(1)/$(1).h: $(LEPTON_OUT)/$(1)/$(1).json ;
-include $(LEPTON_OUT)/$(1).d
.DEFAULT_GOAL := $$(LEPTON_GOAL)
endef
