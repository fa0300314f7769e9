#pragma once

#include <cstddef>
#include <cstdint>
#include <fstream>
#include <span>
#include <sstream>
#include <string>

namespace sllm::testing {

// What the kernel counts under this name (proc(5), smaps: "Rss", "Pss", "Anonymous") in the mappings of this
// process that start in the memory, in bytes.
inline std::uint64_t mapped_sum(std::span<const std::byte> memory, const std::string& name) {
  const auto first = reinterpret_cast<std::uintptr_t>(memory.data());
  std::ifstream table("/proc/self/smaps");
  std::uint64_t sum = 0;
  bool is_inside = false;
  for (std::string line; std::getline(table, line);) {
    std::istringstream words(line);
    std::uintptr_t begin = 0;
    char dash = 0;
    std::uintptr_t end = 0;
    if (words >> std::hex >> begin >> dash >> end && dash == '-') {
      is_inside = begin >= first && begin < first + memory.size();
    } else if (is_inside && line.starts_with(name + ":")) {
      sum += std::stoull(line.substr(name.size() + 1)) * 1024;
    }
  }
  return sum;
}

}  // namespace sllm::testing
