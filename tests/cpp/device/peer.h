#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "base/unique_handle.h"
#include "device/peer_descriptor.h"

namespace sllm::testing {

// A variable that peers see while this lives.
class EnvironmentVariable {
 public:
  EnvironmentVariable(const char* name, const char* value) : name_(name) { ::setenv(name, value, 1); }
  EnvironmentVariable(const EnvironmentVariable&) = delete;
  EnvironmentVariable& operator=(const EnvironmentVariable&) = delete;
  ~EnvironmentVariable() { ::unsetenv(name_); }

 private:
  const char* name_;
};

struct PeerResult {
  int status = -1;  // its exit status, 128 and more where a signal ended it
  std::string stderr_text;
};

inline std::string read_all(int fd) {
  std::string text(static_cast<std::size_t>(::lseek(fd, 0, SEEK_END)), '\0');
  EXPECT_EQ(::pread(fd, text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
  return text;
}

// Runs device_peer to its end.
inline PeerResult run_peer(std::vector<std::string> arguments, int inherited = -1) {
  arguments.insert(arguments.begin(), DEVICE_PEER);
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  const UniqueFd errors(::memfd_create("stderr", MFD_CLOEXEC));
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, errors.get(), STDERR_FILENO);
  if (inherited >= 0) ::posix_spawn_file_actions_adddup2(&actions, inherited, kPeerDescriptor);
  pid_t child = -1;
  EXPECT_EQ(::posix_spawn(&child, DEVICE_PEER, &actions, nullptr, argv.data(), environ), 0);
  ::posix_spawn_file_actions_destroy(&actions);
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), read_all(errors.get())};
}

}  // namespace sllm::testing
