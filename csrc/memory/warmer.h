#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <optional>
#include <stop_token>
#include <thread>

#include "base/unique_handle.h"
#include "memory/chunk_pool.h"
#include "memory/populator.h"

namespace sllm {

// Faults a pool in ahead of its use, in one thread at nice 19, and not while it is paused.
//
// On a machine with several memory nodes each gets as much of the pool, as far as it has memory and the
// kernel lets us say so. Where memory cannot be faulted in as a batch (before Linux 5.14) it does nothing.
// Chunks that it is at may be written to meanwhile. Thread-safe.
class Warmer {
 public:
  // The pool outlives it.
  explicit Warmer(ChunkPool& pool);
  // Stops after what is at hand, some 64 MiB.
  ~Warmer() = default;

  // Once; ends by itself when every chunk is touched. Throws exhausted.
  void start();

  struct PauseTraits {
    using Value = Warmer*;
    static Value none() { return nullptr; }
    static void close(Value warmer) { warmer->resume(); }
  };
  using Pause = UniqueHandle<PauseTraits>;
  // While any pause lives it touches nothing, but for what is at hand. It outlives its pauses.
  Pause pause();

  // Whether it has been everywhere.
  bool is_finished() const { return is_finished_.load(std::memory_order_acquire); }

 private:
  void resume();
  void spread_over_nodes();
  void run(const std::stop_token& stop);
  std::optional<ChunkRange> find_untouched(std::uint64_t from) const;
  bool warm(ChunkRange chunks, const std::stop_token& stop);
  bool wait_while_paused(const std::stop_token& stop);

  ChunkPool& pool_;
  Populator populator_;
  std::mutex mutex_;
  std::condition_variable_any resumed_;
  unsigned pauses_ = 0;
  std::atomic<bool> is_finished_{false};
  std::jthread thread_;  // stops before the rest goes
};

}  // namespace sllm
