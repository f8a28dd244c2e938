// The emulated twin of cuda/text/order.py, where the same function waits for the kernel before this one.
#pragma once

inline void lepton_after_previous() { emulator::after_previous(); }
