// A helper program that lives no longer than we do, however we end.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "vmm/core/fd.h"

namespace minivmm {

// Where `program` is by $PATH; empty: nowhere.
std::string find_program(const std::string& program);

class ChildProcess {
 public:
  struct Plan {
    std::vector<std::string> command;           // the first is a path
    std::vector<std::string> environment = {};  // "NAME=value"; it gets PATH, LC_ALL=C and LISTEN_PID besides
    std::vector<int> descriptors = {};          // become 3, 4, ...; it gets no other
    uint64_t data_limit = 0;                    // bytes of memory it may write to; 0: as much as it wants
    // Runs on the thread that starts it and does nothing else: what a thread hands down can be set here.
    std::function<void()> prepare = {};
  };

  // Throws HostError: it cannot be started.
  explicit ChildProcess(Plan plan);
  // Gives it a moment to end by itself, then kills it.
  ~ChildProcess();
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  int pid() const { return pid_; }
  // Whether it has ended, at the latest after `limit`.
  bool wait_ended(std::chrono::milliseconds limit);
  // The last line that it wrote to its standard error, printable; may be empty.
  std::string last_words();

 private:
  void keep(const Plan& plan);
  bool start(const Plan& plan);
  void watch();
  void hear();
  void reap();

  UniqueFd words_;  // the reading end of its standard error
  EventFd over_;
  int pid_ = -1;
  UniqueFd pidfd_;

  std::mutex mutex_;
  std::condition_variable changed_;
  int start_error_ = -1;  // guarded by mutex_, as all that follow; -1: not known yet
  std::string heard_;
  bool ended_ = false;

  std::thread thread_;
};

}  // namespace minivmm
