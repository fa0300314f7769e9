#include "io/read_queue.h"

#include <algorithm>
#include <array>
#include <string>

#include "base/error.h"
#include "base/size.h"
#include "io/threaded_queue.h"
#include "io/uring_queue.h"

namespace sllm {
namespace {

constexpr unsigned kMostThreads = 16;
constexpr std::chrono::milliseconds kProbePatience{1000};

bool answers(ReadQueue& queue, int fd) {
  alignas(kBlockBytes) std::array<std::byte, kBlockBytes> block;
  const ReadRequest request{.fd = fd, .into = block.data(), .bytes = kBlockBytes, .offset = 0, .tag = 0};
  queue.submit({&request, 1});
  std::array<ReadCompletion, 1> completion;
  // The kernel owns the block until it answers, so running out of patience is not an option.
  while (queue.wait(completion, kProbePatience) == 0) {
  }
  return completion[0].result >= 0;
}

}  // namespace

std::unique_ptr<ReadQueue> make_read_queue(QueueKind kind, unsigned depth, int probe_fd) {
  if (kind != QueueKind::kThreaded) {
    try {
      auto queue = std::make_unique<UringQueue>(depth);
      if (answers(*queue, probe_fd)) return queue;
      throw Error(ErrorCode::kUnsupported,
                  "cannot read through io_uring here: the kernel is older than 5.6 or the file refuses it");
    } catch (const Error&) {
      if (kind == QueueKind::kUring) throw;
    }
  }
  return std::make_unique<ThreadedQueue>(std::min(depth, kMostThreads));
}

QueueFactory queue_factory(QueueKind kind) {
  return [kind](unsigned depth, int probe_fd) { return make_read_queue(kind, depth, probe_fd); };
}

}  // namespace sllm
