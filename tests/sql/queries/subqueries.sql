-- scalar_in_filter
select id from employees where salary > (select avg(salary) from employees);
-- scalar_in_select
select id, (select max(salary) from employees) - salary as below from employees;
-- scalar_of_nothing
select id, (select salary from employees where id < 0) as nothing from departments;
-- scalar_one_row
select id, (select name from departments where id = 1) as first from departments;
-- scalar_limit
select id from employees where salary = (select salary from employees where salary is not null order by salary desc limit 1);
-- correlated_scalar
select e.id from employees e where e.salary > (select avg(x.salary) from employees x where x.dept_id = e.dept_id);
-- correlated_count
select d.id, (select count(*) from employees e where e.dept_id = d.id) as n from departments d;
-- correlated_sum_null
select d.id, (select sum(e.salary) from employees e where e.dept_id = d.id and e.id > 30) as s from departments d;
-- exists
select e.id from employees e where exists (select 1 from sales s where s.emp_id = e.id and s.quantity > 8);
-- not_exists
select e.id from employees e where not exists (select 1 from sales s where s.emp_id = e.id);
-- exists_inequality
select p.a, p.b from pairs p where exists (select 1 from others o where o.a = p.a and o.c > p.b);
-- not_exists_inequality
select p.a, p.b from pairs p where not exists (select 1 from others o where o.a = p.a and o.c > p.b);
-- exists_only_inequality
select p.a from pairs p where exists (select 1 from others o where o.a > p.a);
-- uncorrelated_exists
select id from departments where exists (select 1 from employees where salary > 1000000);
-- uncorrelated_not_exists
select id from departments where not exists (select 1 from employees where salary > 1000000);
-- in
select id from employees where dept_id in (select id from departments where budget > 500);
-- not_in
select id from employees where dept_id not in (select id from departments where budget > 500);
-- not_in_with_nulls
select a from pairs where a not in (select a from others);
-- not_in_without_nulls
select a from pairs where a not in (select a from others where a is not null);
-- not_in_empty
select a from pairs where a not in (select a from others where a > 1000);
-- in_with_nulls
select a, b from pairs where a in (select a from others);
-- correlated_in
select p.a, p.b from pairs p where p.b in (select o.c from others o where o.a = p.a);
-- correlated_not_in
select p.a, p.b from pairs p where p.b is not null and p.b not in (select o.c from others o where o.a = p.a and o.c is not null);
-- or_exists
select e.id from employees e where e.salary > 6000 or exists (select 1 from sales s where s.emp_id = e.id and s.quantity > 9);
-- or_in
select id from employees where id < 3 or dept_id in (select id from departments where budget > 800);
-- and_not_or
select e.id from employees e where not (e.id > 5 and exists (select 1 from sales s where s.emp_id = e.id));
-- nested_in
select id from departments where id in (select dept_id from employees where id in (select emp_id from sales where quantity > 9));
-- in_aggregate
select id from employees where id in (select emp_id from sales group by emp_id having sum(amount) > 5000);
-- scalar_in_having
select dept_id, avg(salary) as mean from employees group by dept_id having avg(salary) > (select avg(salary) from employees);
-- from_subquery
select band, count(*) as n from (select case when salary < 4000 then 'low' else 'high' end as band from employees) x group by band;
-- any_equal
select id from employees where dept_id = any (select id from departments where budget > 500);
-- cte
with rich as (select * from employees where salary > 4000) select d.name, count(*) as n from rich r join departments d on r.dept_id = d.id group by d.name;
-- cte_twice
with t as (select dept_id, sum(salary) as total from employees group by dept_id) select a.dept_id, a.total from t a where a.total = (select max(total) from t);
-- cte_chain
with a as (select id, dept_id from employees where id < 20), b as (select dept_id, count(*) as n from a group by dept_id) select a.id, b.n from a join b on a.dept_id = b.dept_id;
-- cte_self_join
with t as (select a, b from pairs where a is not null) select x.a, y.b from t x join t y on x.a = y.b;
-- cte_columns
with t(x, y) as (select id, budget from departments) select x + y as z from t;
-- scalar_arithmetic
select (select count(*) from employees) * 1.0 / (select count(*) from departments) as ratio;
-- case_of_subquery
select id, case when id > (select avg(id) from departments) then 'late' else 'early' end as half from departments;
-- deep_correlation
select d.id from departments d where 2 < (select count(*) from employees e where e.dept_id = d.id and e.salary > 2500);
-- exists_in_select
select d.id, exists (select 1 from employees e where e.dept_id = d.id) as used from departments d;
