#pragma once

#include <functional>

#include "load/options.h"

namespace sllm {

// Runs `body` in a thread that ends with it, while the calling one does nothing but call `interrupt`.
//
// io_uring leaves work of the kernel's in the thread that submitted to a ring when the ring is closed, and it
// comes as a signal does: it would cut the thread's next blocking write to a pipe short, in whatever code of
// the user's that is. A thread that ends takes it along.
//
// When `interrupt` throws, the Interrupt that `body` is given does so too, and its end is waited for. Throws
// what `interrupt` threw, else what `body` threw.
void run_in_own_thread(const Interrupt& interrupt, const std::function<void(const Interrupt&)>& body);

}  // namespace sllm
