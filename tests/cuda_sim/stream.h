#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <thread>

#include "cuda_sim/link.h"
#include "cuda_sim/signal.h"

namespace cuda_sim {

class Stream;

// What became of the copies of a context; 0, or the code of the first error, which stays.
struct ContextState {
  std::atomic<int> error{0};
  // How long bytes are under way behind their link.
  std::atomic<std::int64_t> latency_ns{0};
};

// A place in a stream that others wait for. Shared by the threads that call the driver; the stream's own
// thread only raises it, and its reference is dropped for it.
struct Mark {
  Signal done;
  std::atomic<std::int64_t> finished_ns{0};  // when the copies before it were, by the clock of the links
  std::uint64_t stream = 0;                  // number of its stream
  std::uint64_t position = 0;

  bool is_done() const { return done.seen() > 0; }
  void wait() const { done.wait_beyond(0); }
};

// Rows of bytes where they really are.
struct Copy {
  std::byte* to = nullptr;
  std::size_t to_pitch = 0;
  const std::byte* from = nullptr;
  std::size_t from_pitch = 0;
  std::size_t row_bytes = 0;
  std::size_t rows = 1;
  Link* link = nullptr;
  int error = 0;  // with which it fails instead

  bool touches(std::span<const std::byte> memory) const;
};

// One thing in a stream: a copy, a mark to be raised, a mark to be waited for, or, with none, the end.
struct Operation {
  Copy copy;
  std::shared_ptr<Mark> raised;
  std::shared_ptr<Mark> awaited;
  std::int64_t submitted_ns = 0;
  std::uint64_t position = 0;
  std::atomic<Operation*> next{nullptr};
};

// A thread that carries out operations in order, at the pace of the links.
//
// The functions are called by one thread at a time (the simulator's mutex). The thread takes operations from
// a list without a lock and gives nothing back; that an operation is over is known once a mark behind it was
// seen, and then it is forgotten.
class Stream {
 public:
  Stream(std::uint64_t number, ContextState& state);
  // Waits for everything.
  ~Stream();

  std::uint64_t number() const { return number_; }

  void push_copy(const Copy& copy);
  std::shared_ptr<Mark> push_mark();
  // Behind everything so far.
  std::shared_ptr<Mark> last_mark();
  void push_wait(std::shared_ptr<Mark> mark);

  // Whether a copy that is not known to be over touches the memory; with none given, whether there is any.
  bool is_copying(std::span<const std::byte> memory) const;
  bool is_copying() const;
  // A mark at this position was seen. Calls `also` with the marks that were waited for before it.
  template <typename Function>
  void note_done(std::uint64_t position, Function&& also) {
    while (!operations_.empty() && operations_.front()->position <= position) {
      if (operations_.front()->awaited) also(*operations_.front()->awaited);
      retire();
    }
  }

 private:
  void push(std::unique_ptr<Operation> operation);
  void retire();
  void run();
  void carry_out(const Operation& operation);
  void carry_out(const Copy& copy, std::int64_t submitted_ns);
  void wait_until(std::int64_t when_ns);

  std::uint64_t number_;
  ContextState& state_;
  std::uint64_t position_ = 0;
  std::deque<std::unique_ptr<Operation>> operations_;  // not known to be over
  Operation* last_;                                    // the thread may stand on it
  std::unique_ptr<Operation> standing_;                // known to be over, but the thread may stand on it
  std::shared_ptr<Mark> last_mark_;                    // none where something was pushed behind it
  Signal pushed_;

  // The thread's own.
  const Operation* at_ = nullptr;
  std::int64_t ready_ns_ = 0;
  std::mutex pause_mutex_;
  std::condition_variable pause_;

  std::thread thread_;
};

}  // namespace cuda_sim
