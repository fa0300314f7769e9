#include "device/host_device.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>

#include "base/error.h"
#include "base/mapping.h"
#include "base/size.h"
#include "device/row_copy.h"
#include "memory/host_buffer.h"

namespace sllm {
namespace {

// Nobody who has the descriptor can take the memory from under the others.
constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

DeviceAddress address_of(const std::byte* start) { return reinterpret_cast<DeviceAddress>(start); }
std::byte* pointer_to(DeviceAddress address) { return reinterpret_cast<std::byte*>(address); }

class PrivateMemory final : public DeviceMemory {
 public:
  PrivateMemory(std::shared_ptr<HostBuffer> buffer, std::uint64_t bytes)
      : DeviceMemory(address_of(buffer->bytes().data()), bytes), buffer_(std::move(buffer)) {}

  UniqueFd export_fd() const override {
    throw Error(ErrorCode::kUnsupported, "cannot export " + std::to_string(bytes()) +
                                             " bytes of host memory: they were not allocated shareable");
  }
  IpcHandle export_ipc() const override {
    throw Error(ErrorCode::kUnsupported, "host memory has no legacy IPC handles");
  }

 private:
  std::shared_ptr<HostBuffer> buffer_;
};

class MemfdMemory final : public DeviceMemory {
 public:
  MemfdMemory(UniqueFd fd, Mapping mapping, std::uint64_t bytes)
      : DeviceMemory(address_of(mapping.start()), bytes), fd_(std::move(fd)), mapping_(std::move(mapping)) {}

  UniqueFd export_fd() const override {
    UniqueFd copy(::fcntl(fd_.get(), F_DUPFD_CLOEXEC, 0));
    if (!copy) throw error_from_errno(errno, "cannot export " + std::to_string(bytes()) + " bytes");
    return copy;
  }
  IpcHandle export_ipc() const override {
    throw Error(ErrorCode::kUnsupported, "host memory has no legacy IPC handles");
  }

 private:
  UniqueFd fd_;
  Mapping mapping_;
};

class HostEvent final : public Event {
 public:
  bool is_done() const override { return true; }
  void wait() const override {}
};

class HostStream final : public Stream {
 public:
  void copy_in(DeviceAddress to, std::span<const std::byte> from) override {
    if (!from.empty()) std::memcpy(pointer_to(to), from.data(), from.size());
  }
  void copy_in_rows(const RowCopy& copy) override {
    validate(copy);
    for (std::uint64_t row = 0; row < copy.rows; ++row) {
      copy_in(copy.to + row * copy.to_pitch, {copy.from + row * copy.from_pitch, copy.row_bytes});
    }
  }
  void copy_out(std::span<std::byte> to, DeviceAddress from) override {
    if (!to.empty()) std::memcpy(to.data(), pointer_to(from), to.size());
  }
  void copy_within(DeviceAddress to, DeviceAddress from, std::uint64_t bytes) override {
    if (bytes > 0) std::memcpy(pointer_to(to), pointer_to(from), bytes);
  }
  std::unique_ptr<Event> record() override { return std::make_unique<HostEvent>(); }
  void wait_for(const Event& event) override { event.wait(); }
  void finish() override {}
};

// Copies from host memory to host memory need nothing pinned.
class NoRegistration final : public HostRegistration {};

[[noreturn]] void refuse(std::uint64_t bytes, int number) {
  const MemoryState state = HostDevice().memory();
  throw error_from_errno(number, "cannot allocate " + std::to_string(bytes) + " bytes of host memory with " +
                                     std::to_string(state.free_bytes) + " of " +
                                     std::to_string(state.total_bytes) + " free");
}

std::unique_ptr<DeviceMemory> map(UniqueFd fd, std::uint64_t bytes) {
  const std::uint64_t mapped = align_up(std::max<std::uint64_t>(bytes, 1), kBlockBytes);
  void* start = ::mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (start == MAP_FAILED) refuse(bytes, errno);
  return std::make_unique<MemfdMemory>(std::move(fd), Mapping(start, mapped), bytes);
}

std::unique_ptr<DeviceMemory> allocate_memfd(std::uint64_t bytes) {
  UniqueFd fd(::memfd_create("sllm", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd || ::ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0 ||
      ::fcntl(fd.get(), F_ADD_SEALS, kSeals) != 0) {
    refuse(bytes, errno);
  }
  return map(std::move(fd), bytes);
}

}  // namespace

// MemAvailable counts in what the page cache would give back (proc(5)).
MemoryState HostDevice::memory() const {
  MemoryState state;
  std::ifstream table("/proc/meminfo");
  std::string name;
  std::uint64_t kibibytes = 0;
  for (std::string line; std::getline(table, line);) {
    if (!(std::istringstream(line) >> name >> kibibytes)) continue;
    if (name == "MemTotal:") state.total_bytes = kibibytes * kKiB;
    if (name == "MemAvailable:") state.free_bytes = kibibytes * kKiB;
  }
  return state;
}

std::unique_ptr<DeviceMemory> HostDevice::allocate(std::uint64_t bytes, AllocationKind kind) {
  if (kind == AllocationKind::kShareable) return allocate_memfd(bytes);
  try {
    return std::make_unique<PrivateMemory>(HostBuffer::allocate(bytes), bytes);
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kExhausted) refuse(bytes, ENOMEM);
    throw;
  }
}

std::unique_ptr<DeviceMemory> HostDevice::import_fd(UniqueFd fd, std::uint64_t bytes) {
  struct stat status{};
  if (::fstat(fd.get(), &status) != 0) throw error_from_errno(errno, "cannot import host memory");
  // Touching what the file does not have, or no longer has, would kill the process.
  const int seals = ::fcntl(fd.get(), F_GET_SEALS);
  if (seals < 0 || (seals & kSeals) != kSeals || static_cast<std::uint64_t>(status.st_size) < bytes) {
    throw Error(ErrorCode::kInvalid,
                "cannot import " + std::to_string(bytes) +
                    " bytes of host memory: the descriptor is no sealed memory of so many");
  }
  return map(std::move(fd), bytes);
}

std::unique_ptr<DeviceMemory> HostDevice::import_ipc(const IpcHandle&, std::uint64_t bytes) {
  throw Error(ErrorCode::kUnsupported,
              "cannot open " + std::to_string(bytes) + " bytes: host memory has no legacy IPC handles");
}

std::unique_ptr<Stream> HostDevice::make_stream() { return std::make_unique<HostStream>(); }

std::unique_ptr<HostRegistration> HostDevice::register_host(std::span<std::byte>) {
  return std::make_unique<NoRegistration>();
}

}  // namespace sllm
