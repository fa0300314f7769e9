#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "base/mapping.h"
#include "base/unique_handle.h"
#include "io/read_queue.h"
#include "io/uring_abi.h"

namespace sllm {

// io_uring by raw system calls (io_uring_setup(2), io_uring_enter(2), io_uring_register(2)).
class UringQueue final : public ReadQueue {
 public:
  // Throws unsupported where the kernel has no io_uring or forbids it, exhausted where memory is short.
  explicit UringQueue(unsigned depth);
  ~UringQueue() override;
  UringQueue(const UringQueue&) = delete;
  UringQueue& operator=(const UringQueue&) = delete;

  std::string_view name() const override { return "io_uring"; }
  unsigned depth() const override { return depth_; }
  Registered prepare(const Foreseen& foreseen) override;
  void submit(std::span<const ReadRequest> requests) override;
  std::size_t wait(std::span<ReadCompletion> completions, std::chrono::milliseconds patience) override;

 private:
  void map_rings(const uring::Parameters& parameters);
  std::size_t collect(std::span<ReadCompletion> completions);
  void register_files(std::span<const int> fds);
  void register_memory(std::span<const std::span<std::byte>> memory);
  uring::SubmissionEntry entry_for(const ReadRequest& request) const;

  unsigned depth_;
  UniqueFd ring_;
  std::vector<std::pair<int, std::int32_t>> files_;  // descriptor and number, sorted
  std::vector<std::span<std::byte>> buffers_;        // sorted by address, numbered by place
  Mapping submission_ring_;
  Mapping completion_ring_;  // empty where one mapping holds both
  Mapping entries_mapping_;

  // Inside the mappings, shared with the kernel.
  std::uint32_t* submission_tail_ = nullptr;
  std::uint32_t* submission_array_ = nullptr;
  std::uint32_t submission_mask_ = 0;
  uring::SubmissionEntry* entries_ = nullptr;
  std::uint32_t* completion_head_ = nullptr;
  std::uint32_t* completion_tail_ = nullptr;
  std::uint32_t completion_mask_ = 0;
  const uring::CompletionEntry* completions_ = nullptr;
};

}  // namespace sllm
