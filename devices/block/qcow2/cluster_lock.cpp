#include "devices/block/qcow2/cluster_lock.h"

namespace minivmm::qcow2 {

bool ClusterLock::must_wait(const Hold& hold) const {
  if (!has_exclusive()) return false;  // the common case: readers and writers in place only
  for (const Hold* other = hold.earlier_; other != nullptr; other = other->earlier_)
    if (other->conflicts(hold)) return true;
  return false;
}

bool ClusterLock::Hold::enter(std::coroutine_handle<> waiter) {
  waiter_ = waiter;
  run = [](IoPosted& self) { static_cast<Hold&>(self).waiter_.resume(); };
  const std::scoped_lock guard(lock_.guard_);
  link();
  held_ = !lock_.must_wait(*this);
  if (!held_) ++lock_.waiting_;
  return !held_;
}

bool ClusterLock::Hold::try_take(uint64_t first, uint64_t last, Mode mode) {
  first_ = first;
  last_ = last;
  mode_ = mode;
  const std::scoped_lock guard(lock_.guard_);
  link();
  held_ = !lock_.must_wait(*this);
  if (!held_) unlink();  // nobody has seen it
  return held_;
}

void ClusterLock::Hold::link() {
  entered_ = true;
  earlier_ = lock_.newest_;
  later_ = nullptr;
  (earlier_ != nullptr ? earlier_->later_ : lock_.oldest_) = this;
  lock_.newest_ = this;
  // Before anything that it allows is done; readers without a lock look here afterwards.
  if (mode_ == Mode::exclusive) lock_.changes_.fetch_add(kChange + 1, std::memory_order_seq_cst);
}

void ClusterLock::Hold::unlink() {
  entered_ = held_ = false;
  (earlier_ != nullptr ? earlier_->later_ : lock_.oldest_) = later_;
  (later_ != nullptr ? later_->earlier_ : lock_.newest_) = earlier_;
  if (mode_ == Mode::exclusive) lock_.changes_.fetch_sub(1, std::memory_order_release);
}

void ClusterLock::Hold::leave() {
  if (!entered_) return;
  const std::scoped_lock guard(lock_.guard_);
  unlink();
  if (lock_.waiting_ == 0) return;
  for (Hold* other = later_; other != nullptr; other = other->later_) {
    if (other->held_ || !conflicts(*other) || lock_.must_wait(*other)) continue;
    other->held_ = true;
    --lock_.waiting_;
    other->engine_->post(*other);
  }
}

}  // namespace minivmm::qcow2
