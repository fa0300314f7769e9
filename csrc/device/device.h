#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/unique_handle.h"
#include "device/uuid.h"

namespace sllm {

// Where a byte lies. On the host it is a pointer; on another device it must not be dereferenced here.
using DeviceAddress = std::uint64_t;

// What every allocation's address is a multiple of, at least.
inline constexpr std::uint64_t kDeviceAlignment = 256;

enum class DeviceKind { kHost, kCuda };

enum class AllocationKind {
  kPlain,      // on a GPU, another process can have it by export_ipc()
  kShareable,  // another process can have it by export_fd()
};

// A legacy CUDA IPC handle: plain bytes that another process on this machine opens.
using IpcHandle = std::array<std::byte, 64>;

// Sole owner of one allocation, or of one mapping of memory that another process exported; its end frees or
// unmaps it, from any thread. It keeps of the device what it needs. No copy may be under way by then.
class DeviceMemory {
 public:
  virtual ~DeviceMemory() = default;
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  DeviceAddress address() const { return address_; }
  std::uint64_t bytes() const { return bytes_; }

  // A descriptor with which another process imports this memory; the memory lives until the last of both is
  // gone. Throws unsupported for memory that isn't shareable.
  virtual UniqueFd export_fd() const = 0;
  // The same as plain bytes, good while this object lives. Throws unsupported where there is no such thing.
  virtual IpcHandle export_ipc() const = 0;

 protected:
  DeviceMemory(DeviceAddress address, std::uint64_t bytes) : address_(address), bytes_(bytes) {}

 private:
  DeviceAddress address_;
  std::uint64_t bytes_;
};

// A mark in a stream: done when everything put into the stream before it is. Thread-safe.
//
// Once is_done() was true or wait() has returned, the copied bytes are where they belong, and the memory that
// they were copied from is the caller's again. Both throw what has failed in the stream by then.
class Event {
 public:
  virtual ~Event() = default;

  virtual bool is_done() const = 0;
  // Sleeps until it is done. The driver takes no deadline here, but copies are finite, and a device that is
  // lost ends them with an error.
  virtual void wait() const = 0;
};

// Rows of bytes, from memory where they lie `from_pitch` apart to where they lie `to_pitch` apart.
struct RowCopy {
  DeviceAddress to = 0;
  std::uint64_t to_pitch = 0;
  const std::byte* from = nullptr;
  std::uint64_t from_pitch = 0;
  std::uint64_t row_bytes = 0;
  std::uint64_t rows = 0;
};

// Copies that a device carries out in order, on its own time.
//
// Used by one thread at a time, from any thread. The memory of a copy stays as it is until an event recorded
// after the copy is done, or finish() returned. Copies from and to host memory that isn't registered are
// right, but hold the caller up. Everything throws device, exhausted or unsupported; after device the stream
// is of no more use. Its end waits until the device has let go of all memory, and forgets what failed.
class Stream {
 public:
  virtual ~Stream() = default;

  virtual void copy_in(DeviceAddress to, std::span<const std::byte> from) = 0;
  // Throws invalid where rows overlap: a pitch is less than the bytes of a row.
  virtual void copy_in_rows(const RowCopy& copy) = 0;
  virtual void copy_out(std::span<std::byte> to, DeviceAddress from) = 0;
  // Between two places of the stream's device that don't overlap.
  virtual void copy_within(DeviceAddress to, DeviceAddress from, std::uint64_t bytes) = 0;

  virtual std::unique_ptr<Event> record() = 0;
  // What is put in from here on starts when `event`, of any stream of any device, is done. Does not wait
  // itself, unless the event is of another driver.
  virtual void wait_for(const Event& event) = 0;
  // Waits for everything, and throws what failed.
  virtual void finish() = 0;
};

// Host memory that is pinned and known to the driver while this lives. No copy may be under way at its end.
class HostRegistration {
 public:
  virtual ~HostRegistration() = default;
};

struct MemoryState {
  std::uint64_t free_bytes = 0;
  std::uint64_t total_bytes = 0;
};

// A place that tensors live in. Thread-safe. What it makes may outlive it.
//
// A CUDA device retains its primary context, the one that torch uses, while it or something that it made
// lives, and leaves each thread's current context as it was.
class Device {
 public:
  virtual ~Device() = default;

  virtual DeviceKind kind() const = 0;
  // "cpu", "cuda:1".
  virtual std::string name() const = 0;
  // The number that this process's driver gives it; 0 for the host.
  virtual int ordinal() const = 0;
  // "NVIDIA H100 80GB HBM3".
  virtual std::string model() const = 0;
  // All zeros for the host. A MIG instance has its own.
  virtual Uuid uuid() const = 0;
  virtual MemoryState memory() const = 0;

  // Aligned to kDeviceAlignment; contents undefined. Throws exhausted, saying how much was wanted and is
  // free, and unsupported where the device has no shareable memory.
  virtual std::unique_ptr<DeviceMemory> allocate(std::uint64_t bytes, AllocationKind kind) = 0;
  // Maps memory that this kind of device exported, in another process or in this one; `bytes` is what the
  // exporter asked for. The descriptor is closed whatever happens. Throws device or invalid for one that is
  // something else or smaller.
  virtual std::unique_ptr<DeviceMemory> import_fd(UniqueFd fd, std::uint64_t bytes) = 0;
  // Never in the process that exported it.
  virtual std::unique_ptr<DeviceMemory> import_ipc(const IpcHandle& handle, std::uint64_t bytes) = 0;

  virtual std::unique_ptr<Stream> make_stream() = 0;
  // For copies of every device. Throws exhausted, unsupported or device where the memory cannot be pinned,
  // conflict where some of it is registered already.
  virtual std::unique_ptr<HostRegistration> register_host(std::span<std::byte> memory) = 0;
};

// "cpu", "cuda" (the first one), "cuda:1", or "cuda:" and a UUID as text. Throws invalid for another name and
// for a device that isn't there, unsupported where there is no usable driver.
std::shared_ptr<Device> find_device(std::string_view name);

}  // namespace sllm
