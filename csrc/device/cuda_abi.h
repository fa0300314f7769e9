#pragma once

#include <cstddef>
#include <cstdint>

// The part of the CUDA driver's interface that is used here (CUDA Driver API reference), declared because the
// build must not need CUDA. Functions keep the driver's names, `_v2` included: those are the symbols.
namespace sllm::cuda {

// Any other number is an error too.
enum class Result : int {
  kSuccess = 0,
  kInvalidValue = 1,
  kOutOfMemory = 2,
  kNotInitialized = 3,
  kDeinitialized = 4,
  kStubLibrary = 34,
  kNoDevice = 100,
  kInvalidDevice = 101,
  kInvalidContext = 201,
  kEccUncorrectable = 214,
  kInvalidHandle = 400,
  kNotReady = 600,
  kIllegalAddress = 700,
  kHostMemoryAlreadyRegistered = 712,
  kHostMemoryNotRegistered = 713,
  kLaunchFailed = 719,
  kNotPermitted = 800,
  kNotSupported = 801,
  kSystemNotReady = 802,
  kSystemDriverMismatch = 803,
  kDeviceNotSupportedByCompat = 804,
  kUnknown = 999,
};

using Ordinal = int;
using Address = unsigned long long;
using MemoryHandle = unsigned long long;
using Context = struct OpaqueContext*;
using Stream = struct OpaqueStream*;
using Event = struct OpaqueEvent*;

struct UuidBytes {
  char bytes[16];
};

struct IpcMemoryHandle {
  char reserved[64];
};

// Device attributes.
inline constexpr int kVirtualMemorySupported = 102;
inline constexpr int kDescriptorHandlesSupported = 103;

// Flags.
inline constexpr unsigned kHostRegisterPortable = 1;
inline constexpr unsigned kStreamNonBlocking = 1;
inline constexpr unsigned kEventBlockingSync = 1;
inline constexpr unsigned kEventDisableTiming = 2;
inline constexpr unsigned kIpcLazyPeerAccess = 1;

inline constexpr int kMemoryIsHost = 1;
inline constexpr int kMemoryIsDevice = 2;
inline constexpr int kLocationIsDevice = 1;
inline constexpr int kAllocationIsPinned = 1;
inline constexpr int kHandleIsDescriptor = 1;
inline constexpr int kAccessReadWrite = 3;
inline constexpr int kGranularityMinimum = 0;

struct Location {
  int type;
  int id;
};

struct AllocationProperties {
  int type;
  int handle_types;
  Location location;
  void* win32_metadata;
  struct {
    unsigned char compression, gpu_direct_rdma;
    unsigned short usage;
    unsigned char reserved[4];
  } flags;
};
static_assert(sizeof(AllocationProperties) == 32);

struct AccessDescription {
  Location location;
  int flags;
};
static_assert(sizeof(AccessDescription) == 12);

struct Copy2d {
  std::size_t from_x, from_y;
  int from_type;
  const void* from_host;
  Address from_device;
  void* from_array;
  std::size_t from_pitch;
  std::size_t to_x, to_y;
  int to_type;
  void* to_host;
  Address to_device;
  void* to_array;
  std::size_t to_pitch;
  std::size_t row_bytes;
  std::size_t rows;
};
static_assert(sizeof(Copy2d) == 128);

}  // namespace sllm::cuda

// Every function that is used: EACH(symbol, parameters...). All are in CUDA 11.4's driver, the newest of them
// cuDeviceGetUuid_v2.
#define SLLM_CUDA_FUNCTIONS(EACH)                                                                     \
  EACH(cuInit, unsigned flags)                                                                        \
  EACH(cuDriverGetVersion, int* version)                                                              \
  EACH(cuGetErrorName, ::sllm::cuda::Result result, const char** name)                                \
  EACH(cuGetErrorString, ::sllm::cuda::Result result, const char** text)                              \
  EACH(cuDeviceGetCount, int* count)                                                                  \
  EACH(cuDeviceGet, ::sllm::cuda::Ordinal* device, int ordinal)                                       \
  EACH(cuDeviceGetName, char* name, int bytes, ::sllm::cuda::Ordinal device)                          \
  EACH(cuDeviceGetUuid_v2, ::sllm::cuda::UuidBytes* uuid, ::sllm::cuda::Ordinal device)               \
  EACH(cuDeviceGetAttribute, int* value, int attribute, ::sllm::cuda::Ordinal device)                 \
  EACH(cuDevicePrimaryCtxRetain, ::sllm::cuda::Context* context, ::sllm::cuda::Ordinal device)        \
  EACH(cuDevicePrimaryCtxRelease_v2, ::sllm::cuda::Ordinal device)                                    \
  EACH(cuCtxPushCurrent_v2, ::sllm::cuda::Context context)                                            \
  EACH(cuCtxPopCurrent_v2, ::sllm::cuda::Context* context)                                            \
  EACH(cuMemGetInfo_v2, std::size_t* free_bytes, std::size_t* total_bytes)                            \
  EACH(cuMemAlloc_v2, ::sllm::cuda::Address* address, std::size_t bytes)                              \
  EACH(cuMemFree_v2, ::sllm::cuda::Address address)                                                   \
  EACH(cuMemGetAddressRange_v2, ::sllm::cuda::Address* start, std::size_t* bytes,                     \
       ::sllm::cuda::Address address)                                                                 \
  EACH(cuMemHostRegister_v2, void* start, std::size_t bytes, unsigned flags)                          \
  EACH(cuMemHostUnregister, void* start)                                                              \
  EACH(cuMemGetAllocationGranularity, std::size_t* granularity,                                       \
       const ::sllm::cuda::AllocationProperties* properties, int option)                              \
  EACH(cuMemCreate, ::sllm::cuda::MemoryHandle* handle, std::size_t bytes,                            \
       const ::sllm::cuda::AllocationProperties* properties, unsigned long long flags)                \
  EACH(cuMemRelease, ::sllm::cuda::MemoryHandle handle)                                               \
  EACH(cuMemExportToShareableHandle, void* shareable, ::sllm::cuda::MemoryHandle handle, int type,    \
       unsigned long long flags)                                                                      \
  EACH(cuMemImportFromShareableHandle, ::sllm::cuda::MemoryHandle* handle, void* shareable, int type) \
  EACH(cuMemAddressReserve, ::sllm::cuda::Address* address, std::size_t bytes, std::size_t alignment, \
       ::sllm::cuda::Address wanted, unsigned long long flags)                                        \
  EACH(cuMemAddressFree, ::sllm::cuda::Address address, std::size_t bytes)                            \
  EACH(cuMemMap, ::sllm::cuda::Address address, std::size_t bytes, std::size_t offset,                \
       ::sllm::cuda::MemoryHandle handle, unsigned long long flags)                                   \
  EACH(cuMemUnmap, ::sllm::cuda::Address address, std::size_t bytes)                                  \
  EACH(cuMemSetAccess, ::sllm::cuda::Address address, std::size_t bytes,                              \
       const ::sllm::cuda::AccessDescription* access, std::size_t count)                              \
  EACH(cuIpcGetMemHandle, ::sllm::cuda::IpcMemoryHandle* handle, ::sllm::cuda::Address address)       \
  EACH(cuIpcOpenMemHandle_v2, ::sllm::cuda::Address* address, ::sllm::cuda::IpcMemoryHandle handle,   \
       unsigned flags)                                                                                \
  EACH(cuIpcCloseMemHandle, ::sllm::cuda::Address address)                                            \
  EACH(cuStreamCreate, ::sllm::cuda::Stream* stream, unsigned flags)                                  \
  EACH(cuStreamDestroy_v2, ::sllm::cuda::Stream stream)                                               \
  EACH(cuStreamSynchronize, ::sllm::cuda::Stream stream)                                              \
  EACH(cuStreamWaitEvent, ::sllm::cuda::Stream stream, ::sllm::cuda::Event event, unsigned flags)     \
  EACH(cuEventCreate, ::sllm::cuda::Event* event, unsigned flags)                                     \
  EACH(cuEventDestroy_v2, ::sllm::cuda::Event event)                                                  \
  EACH(cuEventRecord, ::sllm::cuda::Event event, ::sllm::cuda::Stream stream)                         \
  EACH(cuEventQuery, ::sllm::cuda::Event event)                                                       \
  EACH(cuEventSynchronize, ::sllm::cuda::Event event)                                                 \
  EACH(cuMemcpyHtoDAsync_v2, ::sllm::cuda::Address to, const void* from, std::size_t bytes,           \
       ::sllm::cuda::Stream stream)                                                                   \
  EACH(cuMemcpyDtoHAsync_v2, void* to, ::sllm::cuda::Address from, std::size_t bytes,                 \
       ::sllm::cuda::Stream stream)                                                                   \
  EACH(cuMemcpyDtoDAsync_v2, ::sllm::cuda::Address to, ::sllm::cuda::Address from, std::size_t bytes, \
       ::sllm::cuda::Stream stream)                                                                   \
  EACH(cuMemcpy2DAsync_v2, const ::sllm::cuda::Copy2d* copy, ::sllm::cuda::Stream stream)

namespace sllm::cuda {

// The driver as it was found: one pointer for each function.
struct Functions {
#define SLLM_CUDA_MEMBER(symbol, ...) Result (*symbol)(__VA_ARGS__) = nullptr;
  SLLM_CUDA_FUNCTIONS(SLLM_CUDA_MEMBER)
#undef SLLM_CUDA_MEMBER
};

}  // namespace sllm::cuda
