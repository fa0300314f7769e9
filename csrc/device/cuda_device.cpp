#include "device/cuda_device.h"

#include <array>
#include <charconv>
#include <optional>

#include "device/cuda_memory.h"
#include "device/cuda_shareable_memory.h"
#include "device/cuda_stream.h"

namespace sllm {
namespace {

class CudaHostRegistration final : public HostRegistration {
 public:
  CudaHostRegistration(std::shared_ptr<const CudaContext> context, std::span<std::byte> memory)
      : context_(std::move(context)), start_(memory.data()) {
    context_->call(
        [&](const cuda::Functions& driver) {
          return driver.cuMemHostRegister_v2(start_, memory.size(), cuda::kHostRegisterPortable);
        },
        [&] { return "cannot pin " + std::to_string(memory.size()) + " bytes for " + context_->name(); });
  }
  ~CudaHostRegistration() override {
    context_->release([this](const cuda::Functions& driver) { driver.cuMemHostUnregister(start_); });
  }

 private:
  std::shared_ptr<const CudaContext> context_;
  void* start_;
};

std::string model_of(const CudaDriver& driver, cuda::Ordinal device) {
  std::array<char, 256> text{};
  const cuda::Result result =
      driver.functions().cuDeviceGetName(text.data(), static_cast<int>(text.size()) - 1, device);
  if (result != cuda::Result::kSuccess) {
    throw driver.error(result, "cannot get the name of cuda:" + std::to_string(device));
  }
  return text.data();
}

[[noreturn]] void refuse(const CudaDriver& driver, std::string_view name) {
  const int count = driver.device_count();
  throw Error(ErrorCode::kInvalid, "no device " + std::string(name) + ": " + driver.library() + " has " +
                                       std::to_string(count) +
                                       ", cuda:0 to cuda:" + std::to_string(count - 1));
}

std::optional<cuda::Ordinal> parse_ordinal(std::string_view text) {
  cuda::Ordinal ordinal = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), ordinal);
  if (error != std::errc() || end != text.data() + text.size() || ordinal < 0) return std::nullopt;
  return ordinal;
}

std::optional<cuda::Ordinal> ordinal_of(const CudaDriver& driver, const Uuid& uuid) {
  const int count = driver.device_count();
  for (cuda::Ordinal ordinal = 0; ordinal < count; ++ordinal) {
    if (driver.uuid_of(ordinal) == uuid) return ordinal;
  }
  return std::nullopt;
}

cuda::Ordinal choose(const CudaDriver& driver, std::string_view name) {
  if (name == "cuda") return 0;
  const std::string_view which = name.substr(std::string_view("cuda:").size());
  std::optional<cuda::Ordinal> ordinal = parse_ordinal(which);
  if (const std::optional<Uuid> uuid = parse_uuid(which)) ordinal = ordinal_of(driver, *uuid);
  if (!ordinal || *ordinal >= driver.device_count()) refuse(driver, name);
  return *ordinal;
}

}  // namespace

CudaDevice::CudaDevice(std::shared_ptr<const CudaDriver> driver, cuda::Ordinal device)
    : uuid_(driver->uuid_of(device)),
      model_(model_of(*driver, device)),
      context_(std::make_shared<CudaContext>(std::move(driver), device)) {}

MemoryState CudaDevice::memory() const {
  std::size_t free_bytes = 0;
  std::size_t total_bytes = 0;
  context_->call(
      [&](const cuda::Functions& driver) { return driver.cuMemGetInfo_v2(&free_bytes, &total_bytes); },
      [&] { return "cannot ask " + name() + " for its free memory"; });
  return {.free_bytes = free_bytes, .total_bytes = total_bytes};
}

std::unique_ptr<DeviceMemory> CudaDevice::allocate(std::uint64_t bytes, AllocationKind kind) {
  return kind == AllocationKind::kShareable ? allocate_shareable(context_, bytes)
                                            : allocate_plain(context_, bytes);
}

std::unique_ptr<DeviceMemory> CudaDevice::import_fd(UniqueFd fd, std::uint64_t bytes) {
  return import_shareable(context_, std::move(fd), bytes);
}

std::unique_ptr<DeviceMemory> CudaDevice::import_ipc(const IpcHandle& handle, std::uint64_t bytes) {
  return open_ipc(context_, handle, bytes);
}

std::unique_ptr<Stream> CudaDevice::make_stream() { return std::make_unique<CudaStream>(context_); }

std::unique_ptr<HostRegistration> CudaDevice::register_host(std::span<std::byte> memory) {
  return std::make_unique<CudaHostRegistration>(context_, memory);
}

std::shared_ptr<Device> find_cuda_device(std::shared_ptr<const CudaDriver> driver, std::string_view name) {
  const cuda::Ordinal ordinal = choose(*driver, name);
  return std::make_shared<CudaDevice>(std::move(driver), ordinal);
}

}  // namespace sllm
