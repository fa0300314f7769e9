#pragma once

#include <cstdint>

#include "base/mapping.h"
#include "base/unique_handle.h"
#include "io/read_queue.h"
#include "io/uring_abi.h"

namespace sllm {

// io_uring by raw system calls.
class UringQueue final : public ReadQueue {
 public:
  // Throws unsupported where the kernel has no io_uring or forbids it, exhausted where memory is short.
  explicit UringQueue(unsigned depth);

  std::string_view name() const override { return "io_uring"; }
  unsigned depth() const override { return depth_; }
  void submit(std::span<const ReadRequest> requests) override;
  std::size_t wait(std::span<ReadCompletion> completions, std::chrono::milliseconds patience) override;

 private:
  void map_rings(const uring::Parameters& parameters);
  std::size_t collect(std::span<ReadCompletion> completions);

  unsigned depth_;
  UniqueFd ring_;
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
