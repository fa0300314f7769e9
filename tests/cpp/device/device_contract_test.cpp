// One contract, every device: what is copied in comes out, in the order that was asked for, and what was
// taken is given back.
#include <filesystem>
#include <fstream>
#include <thread>

#include "base/size.h"
#include "device/cuda_device.h"
#include "device/device_bytes.h"
#include "device/host_device.h"
#include "device/simulation.h"
#include "io/temporary_file.h"
#include "memory/host_buffer.h"

namespace sllm {
namespace {

using testing::error_of;
using testing::get;
using testing::put;
using testing::random_bytes;
using testing::says;
using testing::Simulation;

enum class Which { kHost, kSimulated, kGpu };

class DeviceContract : public ::testing::TestWithParam<Which> {
 protected:
  void SetUp() override {
    if (GetParam() == Which::kHost) device_ = std::make_shared<HostDevice>();
    if (GetParam() == Which::kSimulated) {
      Simulation::get().configure("memory=1GiB");
      device_ = find_cuda_device(CudaDriver::load(CUDA_SIM_LIBRARY), "cuda");
    }
    if (GetParam() == Which::kGpu) find_gpu();
  }
  void TearDown() override {
    device_.reset();
    if (GetParam() == Which::kSimulated) Simulation::get().expect_clean();
  }

  void find_gpu() {
    try {
      device_ = find_cuda_device(CudaDriver::load("libcuda.so.1"), "cuda");
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kUnsupported) throw;
      GTEST_SKIP() << "no GPU: " << error.what();
    }
  }

  std::unique_ptr<DeviceMemory> allocate(std::uint64_t bytes, AllocationKind kind = AllocationKind::kPlain) {
    return device_->allocate(bytes, kind);
  }

  // What this process has of the device.
  std::uint64_t used_bytes() const {
    if (GetParam() != Which::kHost) {
      const MemoryState state = device_->memory();
      return state.total_bytes - state.free_bytes;
    }
    std::uint64_t pages = 0;
    std::ifstream statistics("/proc/self/statm");
    statistics >> pages >> pages;
    return pages * kBlockBytes;
  }

  std::shared_ptr<Device> device_;
};

TEST_P(DeviceContract, SaysWhatItIs) {
  EXPECT_EQ(device_->name(), GetParam() == Which::kHost ? "cpu" : "cuda:0");
  EXPECT_EQ(device_->kind(), GetParam() == Which::kHost ? DeviceKind::kHost : DeviceKind::kCuda);
  EXPECT_FALSE(device_->model().empty());
  EXPECT_EQ(device_->uuid() == Uuid{}, GetParam() == Which::kHost);
  EXPECT_GT(device_->memory().free_bytes, 0U);
  EXPECT_GE(device_->memory().total_bytes, device_->memory().free_bytes);
}

TEST_P(DeviceContract, GivesBackTheBytesThatWereCopiedIn) {
  for (const AllocationKind kind : {AllocationKind::kPlain, AllocationKind::kShareable}) {
    const auto bytes = random_bytes(3 * kMiB + 1001);
    const auto memory = allocate(bytes.size() + 7, kind);
    put(*device_, memory->address() + 7, bytes);
    EXPECT_EQ(get(*device_, memory->address() + 7, bytes.size()), bytes);
  }
}

TEST_P(DeviceContract, AlignsWhateverSize) {
  std::vector<std::unique_ptr<DeviceMemory>> all;
  for (const std::uint64_t bytes : {0ULL, 1ULL, 255ULL, 257ULL, 100000ULL}) {
    all.push_back(allocate(bytes));
    EXPECT_EQ(all.back()->address() % kDeviceAlignment, 0U);
    EXPECT_EQ(all.back()->bytes(), bytes);
  }
}

TEST_P(DeviceContract, CopiesNothingAtNoCost) {
  const auto memory = allocate(16);
  const auto stream = device_->make_stream();
  stream->copy_in(memory->address(), {});
  stream->copy_out({}, memory->address());
  stream->copy_within(memory->address(), memory->address(), 0);
  stream->copy_in_rows({.to = memory->address()});
  stream->finish();
}

TEST_P(DeviceContract, PutsRowsAtTheirPitch) {
  constexpr std::uint64_t kRows = 37;
  const auto source = random_bytes(kRows * 1000);
  const auto before = random_bytes(kRows * 700, 2);
  const auto memory = allocate(before.size());
  put(*device_, memory->address(), before);
  const auto stream = device_->make_stream();
  stream->copy_in_rows({.to = memory->address() + 5,
                        .to_pitch = 700,
                        .from = source.data() + 11,
                        .from_pitch = 1000,
                        .row_bytes = 333,
                        .rows = kRows});
  stream->finish();
  auto expected = before;
  for (std::uint64_t row = 0; row < kRows; ++row) {
    std::copy_n(source.begin() + static_cast<long>(row * 1000 + 11), 333,
                expected.begin() + static_cast<long>(row * 700 + 5));
  }
  EXPECT_EQ(get(*device_, memory->address(), expected.size()), expected);
}

TEST_P(DeviceContract, RefusesRowsThatOverlap) {
  const auto source = random_bytes(1000);
  const auto memory = allocate(1000);
  const auto stream = device_->make_stream();
  for (const auto& [to_pitch, from_pitch] : {std::pair{99, 100}, std::pair{100, 99}}) {
    const RowCopy copy{.to = memory->address(),
                       .to_pitch = static_cast<std::uint64_t>(to_pitch),
                       .from = source.data(),
                       .from_pitch = static_cast<std::uint64_t>(from_pitch),
                       .row_bytes = 100,
                       .rows = 2};
    EXPECT_EQ(name_of(error_of([&] { stream->copy_in_rows(copy); }).code()), "invalid");
  }
}

TEST_P(DeviceContract, CopiesWithinItself) {
  const auto bytes = random_bytes(kMiB);
  const auto first = allocate(bytes.size());
  const auto second = allocate(bytes.size(), AllocationKind::kShareable);
  const auto stream = device_->make_stream();
  stream->copy_in(first->address(), bytes);
  stream->copy_within(second->address(), first->address() + 100, bytes.size() - 100);
  stream->finish();
  EXPECT_EQ(get(*device_, second->address(), bytes.size() - 100),
            std::vector<std::byte>(bytes.begin() + 100, bytes.end()));
}

TEST_P(DeviceContract, CopiesFromRegisteredMemoryThatIsReusedAfterItsEvent) {
  const auto staging = HostBuffer::allocate(kMiB);
  const auto registration = device_->register_host(staging->bytes());
  const auto memory = allocate(8 * kMiB);
  const auto stream = device_->make_stream();
  std::vector<std::byte> expected;
  for (std::uint64_t round = 0; round < 8; ++round) {
    const auto bytes = random_bytes(kMiB, round);
    std::copy(bytes.begin(), bytes.end(), staging->bytes().begin());
    expected.insert(expected.end(), bytes.begin(), bytes.end());
    stream->copy_in(memory->address() + round * kMiB, staging->bytes());
    stream->record()->wait();
  }
  EXPECT_EQ(get(*device_, memory->address(), expected.size()), expected);
}

TEST_P(DeviceContract, OrdersStreamsByEvents) {
  const auto bytes = random_bytes(8 * kMiB);
  const auto out = HostBuffer::allocate(bytes.size());
  const auto in = HostBuffer::allocate(bytes.size());
  std::copy(bytes.begin(), bytes.end(), in->bytes().begin());
  const auto in_registration = device_->register_host(in->bytes());
  const auto out_registration = device_->register_host(out->bytes());
  const auto memory = allocate(bytes.size());
  const auto first = device_->make_stream();
  const auto second = device_->make_stream();
  first->copy_in(memory->address(), in->bytes());
  second->wait_for(*first->record());
  second->copy_out(out->bytes(), memory->address());
  const auto done = second->record();
  done->wait();
  EXPECT_TRUE(done->is_done());
  EXPECT_TRUE(std::equal(bytes.begin(), bytes.end(), out->bytes().begin()));
}

TEST_P(DeviceContract, LetsEventsOutliveTheirStreamAndEverythingItsDevice) {
  auto stream = device_->make_stream();
  const auto memory = allocate(kMiB);
  const auto bytes = random_bytes(kMiB);
  stream->copy_in(memory->address(), bytes);
  const auto event = stream->record();
  stream.reset();
  device_.reset();
  event->wait();
  EXPECT_TRUE(event->is_done());
}

TEST_P(DeviceContract, WorksFromAnyThread) {
  const auto bytes = random_bytes(kMiB);
  std::unique_ptr<DeviceMemory> memory;
  std::unique_ptr<Stream> stream;
  std::unique_ptr<Event> event;
  std::thread([&] { memory = allocate(bytes.size()); }).join();
  std::thread([&] { stream = device_->make_stream(); }).join();
  std::thread([&] {
    stream->copy_in(memory->address(), bytes);
    event = stream->record();
  }).join();
  std::thread([&] { event->wait(); }).join();
  EXPECT_EQ(get(*device_, memory->address(), bytes.size()), bytes);
  std::thread([&] {
    event.reset();
    stream.reset();
    memory.reset();
  }).join();
}

TEST_P(DeviceContract, GivesBackAllMemory) {
  const auto bytes = random_bytes(64 * kMiB);
  // A first round takes what is taken once.
  std::uint64_t before = 0;
  for (int round = 0; round < 2; ++round) {
    before = used_bytes();
    for (const AllocationKind kind : {AllocationKind::kPlain, AllocationKind::kShareable}) {
      const auto memory = allocate(bytes.size(), kind);
      put(*device_, memory->address(), bytes);
      EXPECT_GE(used_bytes(), before + bytes.size());
    }
  }
  // The process's own memory is counted in with the host's.
  EXPECT_LE(used_bytes(), before + (GetParam() == Which::kHost ? 8 * kMiB : 0));
}

TEST_P(DeviceContract, SaysWhatWasWantedAndWhatIsFreeWhenThereIsNotEnough) {
  // The host lends more than it has.
  const std::uint64_t too_much =
      GetParam() == Which::kHost ? std::uint64_t{1} << 60 : 2 * device_->memory().total_bytes;
  const std::uint64_t used = used_bytes();
  const auto descriptors = testing::open_descriptors();
  for (const AllocationKind kind : {AllocationKind::kPlain, AllocationKind::kShareable}) {
    const Error error = error_of([&] { allocate(too_much, kind); });
    EXPECT_EQ(name_of(error.code()), "exhausted");
    EXPECT_TRUE(says(error, std::to_string(too_much))) << error.what();
    EXPECT_TRUE(says(error, "free")) << error.what();
  }
  EXPECT_LE(used_bytes(), used + (GetParam() == Which::kHost ? kMiB : 0));
  EXPECT_EQ(testing::open_descriptors(), descriptors);
}

TEST_P(DeviceContract, SharesMemoryByADescriptorThatOutlivesItsExporter) {
  const auto bytes = random_bytes(3 * kMiB);
  const auto descriptors = testing::open_descriptors();
  {
    auto exported = allocate(bytes.size(), AllocationKind::kShareable);
    put(*device_, exported->address(), bytes);
    auto imported = device_->import_fd(exported->export_fd(), bytes.size());
    exported.reset();
    EXPECT_EQ(get(*device_, imported->address(), bytes.size()), bytes);
    EXPECT_EQ(imported->address() % kDeviceAlignment, 0U);
  }
  EXPECT_EQ(testing::open_descriptors(), descriptors);
}

TEST_P(DeviceContract, RefusesDescriptorsOfSomethingElse) {
  const testing::TemporaryFile file(random_bytes(2 * kMiB));
  const auto descriptors = testing::open_descriptors();
  const Error error =
      error_of([&] { device_->import_fd(UniqueFd(::open(file.path().c_str(), O_RDWR)), kMiB); });
  EXPECT_TRUE(error.code() == ErrorCode::kInvalid || error.code() == ErrorCode::kDevice) << error.what();
  EXPECT_EQ(testing::open_descriptors(), descriptors);
}

TEST_P(DeviceContract, RefusesDescriptorsOfLessThanIsAskedFor) {
  const auto exported = allocate(2 * kMiB, AllocationKind::kShareable);
  const Error error = error_of([&] { device_->import_fd(exported->export_fd(), 5 * kMiB); });
  EXPECT_TRUE(error.code() == ErrorCode::kInvalid || error.code() == ErrorCode::kDevice) << error.what();
}

TEST_P(DeviceContract, HasNoDescriptorForPlainMemory) {
  const auto memory = allocate(1);
  EXPECT_EQ(name_of(error_of([&] { memory->export_fd(); }).code()), "unsupported");
  const auto shareable = allocate(1, AllocationKind::kShareable);
  EXPECT_EQ(name_of(error_of([&] { shareable->export_ipc(); }).code()), "unsupported");
}

INSTANTIATE_TEST_SUITE_P(Devices, DeviceContract,
                         ::testing::Values(Which::kHost, Which::kSimulated, Which::kGpu),
                         [](const auto& each) {
                           return each.param == Which::kHost        ? "host"
                                  : each.param == Which::kSimulated ? "simulated"
                                                                    : "gpu";
                         });

}  // namespace
}  // namespace sllm
