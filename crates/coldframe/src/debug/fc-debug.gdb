# Commands for the kernel of a guest: Linux 6.1 on x86-64. Each prints one line per record.

# Whether they fit: sets $fc_fits. "Linux version 6.1." is how its banner begins.
define fc-fits
  set $fc_fits = linux_banner[14] == '6' && linux_banner[15] == '.' && linux_banner[16] == '1' && linux_banner[17] == '.'
  if !$fc_fits
    printf "fc-debug: these commands are for Linux 6.1, and this is %s", linux_banner
  end
end
document fc-fits
Say so when this is another kernel than the one that the commands beginning with fc- are for.
end

define fc-task
  if $argc != 1
    echo usage: fc-task ADDRESS\n
  else
    fc-fits
    if $fc_fits
      set $fc_task = (struct task_struct *) $arg0
      printf "task=0x%lx comm=%s pid=%d tgid=%d mm=0x%lx\n", (unsigned long) $fc_task, $fc_task->comm, $fc_task->pid, $fc_task->tgid, (unsigned long) $fc_task->mm
    end
  end
end
document fc-task
fc-task ADDRESS: the task whose task_struct is there.
end

define fc-curr
  fc-fits
  if $fc_fits
    set $fc_cpu = 0
    if $argc > 0
      set $fc_cpu = $arg0
    end
    if $fc_cpu < 0 || $fc_cpu >= nr_cpu_ids
      printf "there is no processor %d: they are 0 to %d\n", $fc_cpu, nr_cpu_ids - 1
    else
      set $fc_task = *(struct task_struct **) ((unsigned long) &current_task + __per_cpu_offset[$fc_cpu])
      fc-task $fc_task
    end
  end
end
document fc-curr
fc-curr [CPU]: the task that runs on a processor, by default on the first.
end

define fc-regions
  fc-fits
  if $fc_fits
    printf "page_offset_base = 0x%lx\n", page_offset_base
    printf "vmemmap_base = 0x%lx\n", vmemmap_base
    printf "vmalloc_base = 0x%lx\n", vmalloc_base
  end
end
document fc-regions
fc-regions: where the kernel maps all of the memory, the descriptors of its pages, and what it allocates by pages.
end

define fc-va
  if $argc != 1
    echo usage: fc-va PHYSICAL-ADDRESS\n
  else
    fc-fits
    if $fc_fits
      printf "__va(0x%lx) = 0x%lx\n", (unsigned long) $arg0, page_offset_base + (unsigned long) $arg0
    end
  end
end
document fc-va
fc-va PHYSICAL-ADDRESS: where the kernel sees it.
end

define fc-faults
  fc-fits
  if $fc_fits
    set $fc_left = 20
    if $argc > 0
      set $fc_left = $arg0
    end
    # On its first instruction, where the arguments are still in their registers.
    hbreak *(unsigned long)&handle_mm_fault
    set $fc_break = $bpnum
    commands
      silent
    end
    while $fc_left > 0
      continue
      if $pc != (unsigned long) &handle_mm_fault
        # Somebody interrupted it, or another breakpoint was first.
        set $fc_left = 0
      else
        set $fc_vma = (struct vm_area_struct *) $rdi
        # In the kernel, the base of gs is where the processor has its own variables.
        set $fc_task = *(struct task_struct **) ($gs_base + (unsigned long) &current_task)
        printf "FAULT comm=%s pid=%d addr=0x%lx vma=0x%lx-0x%lx flags=0x%x\n", $fc_task->comm, $fc_task->pid, $rsi, $fc_vma->vm_start, $fc_vma->vm_end, (unsigned int) $rdx
        set $fc_left = $fc_left - 1
      end
    end
    delete $fc_break
  end
end
document fc-faults
fc-faults [N]: let the guest run until N pages (20) were faulted in, and say by whom and where. It stands still afterwards.
Uses a hardware breakpoint, so nothing in the guest's memory changes.
end
