#include "io/uring_queue.h"

#include <poll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <string>

#include "base/error.h"

namespace sllm {
namespace {

Mapping map_ring(int fd, std::size_t bytes, std::uint64_t at) {
  void* start =
      ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, static_cast<off_t>(at));
  if (start == MAP_FAILED)
    throw error_from_errno(errno, "cannot map an io_uring of " + std::to_string(bytes) + " bytes");
  return Mapping(start, bytes);
}

template <typename T>
T* inside(const Mapping& mapping, std::uint32_t offset) {
  return reinterpret_cast<T*>(mapping.start() + offset);
}

Error setup_error(int number) {
  // A seccomp profile answers EPERM or ENOSYS, the sysctl io_uring_disabled EPERM.
  if (number == EPERM || number == ENOSYS) {
    return Error(ErrorCode::kUnsupported, "cannot set up io_uring: the kernel lacks it or forbids it");
  }
  return error_from_errno(number, "cannot set up io_uring");
}

}  // namespace

UringQueue::UringQueue(unsigned depth) : depth_(depth) {
  uring::Parameters parameters{};
  ring_ = UniqueFd(static_cast<int>(::syscall(uring::kSetupCall, depth, &parameters)));
  if (!ring_) throw setup_error(errno);
  map_rings(parameters);
}

void UringQueue::map_rings(const uring::Parameters& parameters) {
  const auto& submission = parameters.submission;
  const auto& completion = parameters.completion;
  std::size_t submission_bytes = submission.array + parameters.submission_entries * sizeof(std::uint32_t);
  const std::size_t completion_bytes =
      completion.entries + parameters.completion_entries * sizeof(uring::CompletionEntry);
  const bool is_single = (parameters.features & uring::kFeatureSingleMap) != 0;
  if (is_single) submission_bytes = std::max(submission_bytes, completion_bytes);

  submission_ring_ = map_ring(ring_.get(), submission_bytes, uring::kSubmissionRingAt);
  if (!is_single) completion_ring_ = map_ring(ring_.get(), completion_bytes, uring::kCompletionRingAt);
  entries_mapping_ = map_ring(ring_.get(), parameters.submission_entries * sizeof(uring::SubmissionEntry),
                              uring::kEntriesAt);

  submission_tail_ = inside<std::uint32_t>(submission_ring_, submission.tail);
  submission_array_ = inside<std::uint32_t>(submission_ring_, submission.array);
  submission_mask_ = *inside<std::uint32_t>(submission_ring_, submission.ring_mask);
  entries_ = inside<uring::SubmissionEntry>(entries_mapping_, 0);

  const Mapping& completions = is_single ? submission_ring_ : completion_ring_;
  completion_head_ = inside<std::uint32_t>(completions, completion.head);
  completion_tail_ = inside<std::uint32_t>(completions, completion.tail);
  completion_mask_ = *inside<std::uint32_t>(completions, completion.ring_mask);
  completions_ = inside<const uring::CompletionEntry>(completions, completion.entries);
}

void UringQueue::submit(std::span<const ReadRequest> requests) {
  std::uint32_t tail = *submission_tail_;
  for (const ReadRequest& request : requests) {
    const std::uint32_t slot = tail++ & submission_mask_;
    entries_[slot] = {};
    entries_[slot].operation = uring::kOperationRead;
    entries_[slot].fd = request.fd;
    entries_[slot].offset = request.offset;
    entries_[slot].address = reinterpret_cast<std::uint64_t>(request.into);
    entries_[slot].bytes = request.bytes;
    entries_[slot].tag = request.tag;
    submission_array_[slot] = slot;
  }
  // The kernel reads the entries when it sees the tail (io_uring(7)).
  std::atomic_ref(*submission_tail_).store(tail, std::memory_order_release);
  for (std::size_t left = requests.size(); left > 0;) {
    const long taken = ::syscall(uring::kEnterCall, ring_.get(), left, 0, 0, nullptr, 0);
    if (taken >= 0) {
      left -= static_cast<std::size_t>(taken);
    } else if (errno != EINTR && errno != EAGAIN && errno != EBUSY) {
      throw error_from_errno(errno, "cannot submit " + std::to_string(left) + " reads to io_uring");
    }
  }
}

std::size_t UringQueue::wait(std::span<ReadCompletion> completions, std::chrono::milliseconds patience) {
  if (const std::size_t count = collect(completions)) return count;
  pollfd ready{.fd = ring_.get(), .events = POLLIN, .revents = 0};
  if (::poll(&ready, 1, static_cast<int>(patience.count())) < 0 && errno != EINTR) {
    throw error_from_errno(errno, "cannot wait for io_uring");
  }
  return collect(completions);
}

std::size_t UringQueue::collect(std::span<ReadCompletion> completions) {
  std::uint32_t head = *completion_head_;
  const std::uint32_t tail = std::atomic_ref(*completion_tail_).load(std::memory_order_acquire);
  std::size_t count = 0;
  for (; head != tail && count < completions.size(); ++head, ++count) {
    const uring::CompletionEntry& entry = completions_[head & completion_mask_];
    completions[count] = {entry.tag, entry.result};
  }
  std::atomic_ref(*completion_head_).store(head, std::memory_order_release);
  return count;
}

}  // namespace sllm
