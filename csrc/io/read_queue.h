#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>

namespace sllm {

// One read as the kernel is asked for it. Descriptor and memory stay valid until its completion.
struct ReadRequest {
  int fd = -1;
  std::byte* into = nullptr;
  std::uint32_t bytes = 0;
  std::uint64_t offset = 0;
  std::uint64_t tag = 0;
};

struct ReadCompletion {
  std::uint64_t tag = 0;
  std::int64_t result = 0;  // bytes read, which may be fewer than asked for, or a negative errno value
};

// What a queue will read, told ahead.
struct Foreseen {
  std::span<const int> fds;
  std::span<const std::span<std::byte>> memory;  // the more often each is read into, the earlier
};

// What of it the kernel took.
struct Registered {
  std::uint64_t files = 0;
  std::uint64_t bytes = 0;
};

// The kernel's reading, asynchronously: requests go in, completions come out in any order.
//
// A queue repeats nothing and interprets nothing: short reads, EINTR and errors are passed on (ExtentReader
// deals with them). Used by one thread. The owner collects every completion before it destroys the queue.
class ReadQueue {
 public:
  virtual ~ReadQueue() = default;

  virtual std::string_view name() const = 0;
  // The most requests that may be in flight.
  virtual unsigned depth() const = 0;
  // Lets the kernel hold on to files and memory, so that each read costs it less; a queue takes what it can,
  // which may be nothing, and locked-memory limits let it. The memory is faulted in and locked as long as the
  // queue lives. At most once, while nothing is in flight; files and memory outlive the queue.
  virtual Registered prepare(const Foreseen&) { return {}; }
  // Starts them all. The caller keeps within depth(). Throws io; then none was started.
  virtual void submit(std::span<const ReadRequest> requests) = 0;
  // Fills `completions` from the front and returns how many; waits for the first of them, `patience` at the
  // most, and returns 0 when it ran out or a signal came.
  virtual std::size_t wait(std::span<ReadCompletion> completions, std::chrono::milliseconds patience) = 0;
};

enum class QueueKind { kAuto, kUring, kThreaded };

// kAuto takes io_uring where a real read through it answers (containers forbid it, old kernels lack the
// operation), threads elsewhere; `probe_fd` is the file to be read. kUring throws unsupported where it can't.
std::unique_ptr<ReadQueue> make_read_queue(QueueKind kind, unsigned depth, int probe_fd);

// Where whoever reads gets its queue from: (depth, probe_fd). The seam at which a test puts a failing one.
using QueueFactory = std::function<std::unique_ptr<ReadQueue>(unsigned, int)>;
QueueFactory queue_factory(QueueKind kind);

}  // namespace sllm
