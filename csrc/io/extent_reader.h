#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "io/file.h"
#include "io/read_queue.h"

namespace sllm {

// One extent of a file, to be read wholly.
struct ExtentRead {
  const File* file = nullptr;
  std::byte* into = nullptr;  // room for `bytes`, rounded up to blocks where the file is direct
  std::uint64_t offset = 0;   // of a direct file: a multiple of kBlockBytes
  std::uint64_t bytes = 0;    // up to the file's end at the most
  std::uint64_t tag = 0;
};

// Reads extents through a queue until each one is whole.
//
// This is where short reads, EINTR and EAGAIN end: the rest is asked for again. A file that ends early is
// `corrupt`; any other failure is what errno says. Used by one thread. Whatever happens, no read is in
// flight when the destructor has run: it waits for those that are, so the queue, the files and the memory
// must outlive it.
class ExtentReader {
 public:
  explicit ExtentReader(ReadQueue& queue);
  ~ExtentReader();
  ExtentReader(const ExtentReader&) = delete;
  ExtentReader& operator=(const ExtentReader&) = delete;

  bool has_room() const { return in_flight_ < slots_.size(); }
  std::size_t in_flight() const { return in_flight_; }

  // Takes the extent; it goes to the kernel with the next wait(), so that a batch costs one system call.
  void add(const ExtentRead& extent);
  // Tags of extents that are whole, one at least unless `patience` ran out; valid until the next call.
  std::span<const std::uint64_t> wait(std::chrono::milliseconds patience);

  std::uint64_t repeats() const { return repeats_; }
  std::size_t deepest() const { return deepest_; }

 private:
  struct Slot {
    ExtentRead extent;
    std::uint64_t done = 0;
    bool is_repeated = false;  // the last read brought nothing further
  };

  ReadRequest request_for(std::uint64_t slot) const;
  void start(std::uint64_t slot);
  void resume(std::uint64_t slot, std::uint64_t reached);
  void complete(const ReadCompletion& completion);

  ReadQueue& queue_;
  std::vector<Slot> slots_;
  std::vector<std::uint64_t> free_slots_;
  std::vector<ReadRequest> batch_;
  std::vector<ReadCompletion> completions_;
  std::vector<std::uint64_t> whole_;
  std::size_t in_flight_ = 0;  // extents taken and not yet whole
  std::size_t submitted_ = 0;  // requests that the queue has not answered
  std::size_t deepest_ = 0;
  std::uint64_t repeats_ = 0;
};

}  // namespace sllm
