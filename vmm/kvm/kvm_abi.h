// <linux/kvm.h> as the kernel means it. Its flexible arrays are declared by a macro that puts an empty struct
// before them: nothing in C, one byte in C++, which moves the arrays and changes the ioctls' numbers.
#pragma once

#include <linux/stddef.h>
#undef __DECLARE_FLEX_ARRAY
#define __DECLARE_FLEX_ARRAY(TYPE, NAME) TYPE NAME[]
#include <linux/kvm.h>

static_assert(sizeof(kvm_cpuid2) == 8 && sizeof(kvm_msrs) == 8 && sizeof(kvm_irq_routing) == 8);
