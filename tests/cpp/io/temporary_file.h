#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <thread>
#include <vector>

namespace sllm::testing {

// Bytes that no shifted or doubled read reproduces.
inline std::vector<std::byte> random_bytes(std::size_t count, std::uint64_t seed = 1) {
  std::vector<std::byte> bytes(count);
  std::uint64_t state = seed * 0x9E3779B97F4A7C15 + 1;
  for (std::byte& byte : bytes) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    byte = static_cast<std::byte>(state >> 32);
  }
  return bytes;
}

// A file with given bytes on the disk, not on a tmpfs, so that direct I/O is what is tested; removed at the
// end.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::vector<std::byte>& bytes) {
    std::string name = (std::filesystem::current_path() / "sllm-test-XXXXXX").string();
    const int fd = ::mkstemp(name.data());
    EXPECT_GE(fd, 0);
    path_ = name;
    EXPECT_EQ(::write(fd, bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
    ::fsync(fd);
    ::close(fd);
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  ~TemporaryFile() { std::filesystem::remove(path_); }

  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// Puts a file out of the page cache.
inline void evict(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY);
  ::fsync(fd);
  ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  ::close(fd);
}

// Brings a file into the page cache.
inline void read_once(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  file.ignore(std::numeric_limits<std::streamsize>::max());
}

inline std::size_t count_entries(const char* folder) {
  std::size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder)) ++count;
  return count;
}

inline std::size_t open_descriptors() { return count_entries("/proc/self/fd"); }

// Those of the process's own: the kernel's for io_uring stay some seconds for more work.
inline std::size_t running_threads() {
  std::size_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/task")) {
    std::string name;
    std::getline(std::ifstream(entry.path() / "comm"), name);
    count += !name.starts_with("iou-");
  }
  return count;
}

// A joined thread leaves /proc a moment after pthread_join() has returned.
inline bool threads_come_down_to(std::size_t count) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(5);
  while (running_threads() > count && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
  return running_threads() <= count;
}

}  // namespace sllm::testing
