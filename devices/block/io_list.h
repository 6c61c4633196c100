// A first-in-first-out list of operations or posted work, linked through their own `next`.
#pragma once

#include <utility>

namespace minivmm {

template <class T>
class IoList {
 public:
  bool empty() const { return first_ == nullptr; }
  void push(T& item) {
    item.next = nullptr;
    *(first_ == nullptr ? &first_ : &last_->next) = &item;
    last_ = &item;
  }
  T* pop() {  // null: empty
    T* item = first_;
    if (item != nullptr) first_ = item->next;
    return item;
  }
  // Everything in here, which is empty afterwards.
  IoList take() { return std::exchange(*this, {}); }
  void append(IoList&& more) {
    if (more.empty()) return;
    *(first_ == nullptr ? &first_ : &last_->next) = more.first_;
    last_ = more.last_;
    more = {};
  }

 private:
  T* first_ = nullptr;
  T* last_ = nullptr;  // meaningful unless empty
};

}  // namespace minivmm
