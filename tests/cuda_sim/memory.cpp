#include "cuda_sim/memory.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <string>
#include <string_view>

namespace cuda_sim {
namespace {

constexpr std::string_view kName = "cuda_sim_device_";

// The number behind our name in what the kernel calls the descriptor: "/memfd:NAME (deleted)".
std::optional<int> device_of(int fd) {
  std::array<char, 128> link{};
  const std::string path = "/proc/self/fd/" + std::to_string(fd);
  const ssize_t length = ::readlink(path.c_str(), link.data(), link.size() - 1);
  const std::string_view text(link.data(), length > 0 ? static_cast<std::size_t>(length) : 0);
  const std::size_t at = text.find(kName);
  int device = 0;
  if (at == std::string_view::npos) return std::nullopt;
  const char* digits = text.data() + at + kName.size();
  if (std::from_chars(digits, text.data() + text.size(), device).ec != std::errc()) return std::nullopt;
  return device;
}

Mapping map_shared(int fd, std::uint64_t bytes) {
  void* start = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  return start == MAP_FAILED ? Mapping() : Mapping(start, bytes);
}

}  // namespace

std::shared_ptr<Backing> Backing::make(int device, std::uint64_t bytes, std::uint64_t& charged) {
  UniqueFd fd(::memfd_create((std::string(kName) + std::to_string(device)).c_str(), MFD_CLOEXEC));
  if (!fd || ::ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0) return nullptr;
  Mapping mapping = map_shared(fd.get(), bytes);
  if (mapping.start() == nullptr) return nullptr;
  std::shared_ptr<Backing> backing(new Backing(std::move(fd), std::move(mapping), device));
  backing->charged_ = &charged;
  charged += bytes;
  return backing;
}

std::shared_ptr<Backing> Backing::adopt(UniqueFd fd) {
  const std::optional<int> device = device_of(fd.get());
  struct stat status{};
  if (!device || ::fstat(fd.get(), &status) != 0) return nullptr;
  Mapping mapping = map_shared(fd.get(), static_cast<std::uint64_t>(status.st_size));
  if (mapping.start() == nullptr) return nullptr;
  return std::shared_ptr<Backing>(new Backing(std::move(fd), std::move(mapping), *device));
}

void Backing::populate() {
  constexpr int kPopulateWrite = 23;  // younger than some headers
  ::madvise(mapping_.start(), mapping_.bytes(), kPopulateWrite);
}

Backing::~Backing() {
  if (charged_ != nullptr) *charged_ -= mapping_.bytes();
}

std::unique_ptr<Reservation> Reservation::make(std::uint64_t bytes, std::uint64_t alignment) {
  const std::uint64_t reserved = bytes + alignment;
  void* start = ::mmap(nullptr, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (start == MAP_FAILED) return nullptr;
  const Address first = (reinterpret_cast<Address>(start) + alignment - 1) & ~(alignment - 1);
  return std::unique_ptr<Reservation>(new Reservation(Mapping(start, reserved), first, bytes));
}

Region* find(Regions& regions, Address address, std::uint64_t bytes) {
  auto behind = regions.upper_bound(address);
  if (behind == regions.begin()) return nullptr;
  Region& region = std::prev(behind)->second;
  const std::uint64_t offset = address - region.start;
  return offset <= region.bytes && bytes <= region.bytes - offset ? &region : nullptr;
}

}  // namespace cuda_sim
